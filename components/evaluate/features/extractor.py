"""The extractor: a small convolutional network that computes features of images.

There are two kinds with the same interface, which external extractors (external.py) have too:
- `classifier`: trained on the labelled training images; the features are the 64 activations before its last layer.
- `random`: random weights from a fixed seed, for images without labels. Its scores show which of two generators is closer to
  the data, but they say less about what people see.
Scores are comparable only if they are from an extractor with the same `digest`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import digest_of, write_bytes, write_text
from components.common.errors import ArtifactError, first_line
from components.dataset.stored_images import StoredImages
from components.evaluate.features.external import SETTINGS_FILE as EXTERNAL_FILE
from components.evaluate.features.external import ExternalExtractor, load_external

FEATURES = 64
CHANNELS = (32, 64)  # of the first convolution, and of the others
WEIGHTS_FILE = "weights.npz"
SETTINGS_FILE = "extractor.json"
BATCH_SIZE = 1000

Floats32 = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8] | StoredImages  # uint8 [N, H, W, C]; of StoredImages, one batch at a time is in memory


class Settings(BaseModel):
    """The settings of an extractor. `scale` makes the mean squared feature of training images 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["classifier", "random"]
    image_size: int
    channels: int
    classes: int
    scale: float
    held_out_accuracy: float | None


class Extractor(NamedTuple):
    """Settings and weights; the weights have the order of `network`."""

    settings: Settings
    weights: tuple[Floats32, ...]

    @property
    def digest(self) -> str:
        """The hex SHA-256 of kind, sizes, scale and weights."""
        arrays = [[list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()] for array in self.weights]
        return digest_of([self.settings.model_dump(exclude={"held_out_accuracy"}), arrays])

    @property
    def width(self) -> int:
        """The number of features of an image."""
        return FEATURES

    @property
    def resize(self) -> str:
        """A description of how images are resized."""
        return f"none: native {self.settings.image_size}×{self.settings.image_size}"

    def features(self, images: Images) -> Floats32:
        """Return the features of uint8 images [N, H, W, C]: float32 [N, 64], non-negative, with a mean square near 1."""
        settings = self.settings
        model = network(settings.image_size, settings.channels, settings.classes)
        model.set_weights(self.weights)
        parts = [model(part, training=False)["features"].numpy() for part in _batches(images)]
        features: Floats32 = np.concatenate(parts) * np.float32(settings.scale)
        return features

    def classes_of(self, features: Floats32) -> npt.NDArray[np.int64]:
        """Return the class that a classifier predicts for each row of features: int64 [N]."""
        kernel, bias = self.weights[-2:]
        scores = (features / np.float32(self.settings.scale)) @ kernel + bias
        return np.asarray(scores.argmax(axis=1), np.int64)

    def save(self, folder: Path) -> None:
        """Write weights.npz and extractor.json to `folder`. Raises ArtifactError."""
        stream = io.BytesIO()
        arrays: dict[str, Any] = {f"w{index:02d}": array for index, array in enumerate(self.weights)}
        np.savez(stream, **arrays)
        write_bytes(folder / WEIGHTS_FILE, stream.getvalue())
        write_text(folder / SETTINGS_FILE, self.settings.model_dump_json(indent=1))


AnyExtractor = Extractor | ExternalExtractor


def load(folder: Path) -> AnyExtractor:
    """Read what `save` wrote. Raises ArtifactError if it is missing or damaged."""
    if (folder / EXTERNAL_FILE).is_file():
        return load_external(folder)
    try:
        settings = Settings.model_validate_json((folder / SETTINGS_FILE).read_bytes())
        with np.load(folder / WEIGHTS_FILE, allow_pickle=False) as arrays:
            weights = tuple(arrays[name] for name in sorted(arrays.files))
    except (OSError, ValueError, ValidationError) as error:
        raise ArtifactError(f"{folder} does not contain an extractor: {first_line(error)}.", "Run evaluate again.") from error
    return Extractor(settings, weights)


def network(image_size: int, channels: int, classes: int) -> Any:
    """Return the Keras model: uint8 [B, H, W, C] to `features` before scaling [B, 64] and `scores` [B, classes].

    3×3 convolutions with stride 2 reduce the image to 4×4 or less; the first has stride 1 for images of 16 pixels or less.
    Images are not resized. Without classes there are no `scores`.
    """
    import keras

    def convolution(inputs: Any, filters: int, stride: int) -> Any:
        return keras.layers.Conv2D(filters, 3, strides=stride, padding="same", activation="relu")(inputs)

    inputs = keras.Input((image_size, image_size, channels), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = convolution(x, CHANNELS[0], 1 if image_size <= 16 else 2)
    while x.shape[1] > 4:
        x = convolution(x, CHANNELS[1], 2)
    features = keras.layers.Dense(FEATURES, activation="relu")(keras.layers.Flatten()(x))
    outputs = {"features": features}
    if classes:
        outputs["scores"] = keras.layers.Dense(classes)(features)
    return keras.Model(inputs, outputs)


def initial_weights(model: Any, seed: int) -> list[Floats32]:
    """Return He-normal kernels (He et al. 2015, equation 10) and zero biases, drawn by NumPy: the same on all devices."""
    generator = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        deviation = np.sqrt(2.0 / np.prod(shape[:-1])) if len(shape) > 1 else 0.0
        weights.append((generator.standard_normal(shape) * deviation).astype(np.float32))
    return weights


def _batches(images: Images) -> Iterator[npt.NDArray[np.uint8]]:
    return (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
