"""The default extractor: a small convolutional network that computes features of the images of one dataset.

Of kind `trained`, it learned to tell the real images, by label if they have labels, from damaged ones (damage.py). The features
are the activations before its last layer, whitened: real images vary about equally in all directions. So what all of them have
in common counts as much as what differs between them, and images that lack it lie far away. One more feature says how sure the
network is that an image is damaged. Of kind `random`, it has random weights: for the scores during a training, which must cost
little. External extractors (external.py) have the same interface.
Scores are comparable only if they are from an extractor with the same `digest`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
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

ACTIVATIONS = 64
CHANNELS = (16, 48)  # of the first convolution, and of the others
LARGEST = 32  # pixels a side, about: more detail than that would take too long to learn
WEIGHTS_FILE = "weights.npz"
SETTINGS_FILE = "extractor.json"
BATCH_SIZE = 1000
BOUND = 6.0  # of a feature: about six standard deviations of real images; beyond it, more distance means nothing
SMALLEST_VARIANCE = 0.01  # of the largest: the whitening does not enlarge what hardly varies by more

Floats32 = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8] | StoredImages  # uint8 [N, H, W, C]; of StoredImages, one batch at a time is in memory


class Settings(BaseModel):
    """The settings of an extractor; `classes` is the number of labels, 0 without labels.

    `held_out_accuracy` is the share of held-out images whose label it recognises. `told_apart` is the mean of two shares: real
    held-out images that it takes for real, and damaged ones that it takes for damaged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["trained", "random"]
    image_size: int
    channels: int
    classes: int
    held_out_accuracy: float | None = None
    told_apart: float | None = None


class Extractor(NamedTuple):
    """Settings, the weights of `network` in its order, and the whitening: `centre` [64] and `whitening` [64, 64]."""

    settings: Settings
    weights: tuple[Floats32, ...]
    centre: Floats32
    whitening: Floats32

    @property
    def digest(self) -> str:
        """The hex SHA-256 of kind, sizes, weights and whitening."""
        arrays = [*self.weights, self.centre, self.whitening]
        described = [[list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()] for array in arrays]
        return digest_of([self.settings.model_dump(exclude={"held_out_accuracy", "told_apart"}), described])

    @property
    def width(self) -> int:
        """The number of features of an image."""
        return ACTIVATIONS + (self.settings.kind == "trained")

    @property
    def resize(self) -> str:
        """A description of how images are resized."""
        size, side = self.settings.image_size, averaged(self.settings.image_size)
        return f"none: native {size}×{size}" if side == 1 else f"averaged to {size // side}×{size // side} by the network"

    def features(self, images: Images, *, may_be_equal: bool = True) -> Floats32:  # noqa: ARG002 - external extractors check it
        """Return the features of uint8 images [N, H, W, C]: float32 [N, width], between -BOUND and BOUND."""
        return self.features_and_scores(images)[0]

    def features_and_scores(self, images: Images) -> tuple[Floats32, Floats32]:
        """Return the features [N, width], and the network's scores of labels and kinds of damage [N, K], from one pass."""
        activations, scores = outputs(self.weights, images)
        features = (activations - self.centre) @ self.whitening
        if self.settings.kind == "trained":
            real = max(1, self.settings.classes)
            surprise = np.logaddexp.reduce(scores, axis=1) - np.logaddexp.reduce(scores[:, :real], axis=1)  # -log p(real)
            features = np.concatenate([features, surprise[:, None]], axis=1)
        return (np.float32(BOUND) * np.tanh(features / np.float32(BOUND))).astype(np.float32), scores

    def save(self, folder: Path) -> None:
        """Write weights.npz and extractor.json to `folder`. Raises ArtifactError."""
        stream = io.BytesIO()
        arrays: dict[str, Any] = {f"w{index:02d}": array for index, array in enumerate(self.weights)}
        arrays |= {"centre": self.centre, "whitening": self.whitening}
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
            weights = tuple(arrays[name] for name in sorted(arrays.files) if name not in ("centre", "whitening"))
            centre, whitening = arrays["centre"], arrays["whitening"]
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise ArtifactError(f"{folder} does not contain an extractor: {first_line(error)}.", "Run evaluate again.") from error
    return Extractor(settings, weights, centre, whitening)


def network(image_size: int, channels: int, scores: int) -> Any:
    """Return the Keras model: uint8 [B, H, W, C] to `activations`, which the features come from [B, 64], and `scores` [B, K].

    Images of 64 pixels and more are averaged to about LARGEST. Then 3×3 convolutions with stride 2 reduce them to 4×4 or less;
    the first has stride 1 for images of 16 pixels or less.
    """
    import keras

    def convolution(inputs: Any, filters: int, stride: int) -> Any:
        return keras.layers.Conv2D(filters, 3, strides=stride, padding="same", activation="relu")(inputs)

    inputs = keras.Input((image_size, image_size, channels), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    if (side := averaged(image_size)) > 1:
        x = keras.layers.AveragePooling2D(side)(x)
    x = convolution(x, CHANNELS[0], 1 if image_size <= 16 else 2)
    while x.shape[1] > 4:
        x = convolution(x, CHANNELS[1], 2)
    activations = keras.layers.Dense(ACTIVATIONS, activation="relu")(keras.layers.Flatten()(x))
    return keras.Model(inputs, {"activations": activations, "scores": keras.layers.Dense(scores)(activations)})


def averaged(image_size: int) -> int:
    """Return the side of the squares of pixels that the network averages first."""
    return max(1, image_size // LARGEST)


def initial_weights(model: Any, seed: int) -> list[Floats32]:
    """Return He-normal kernels (He et al. 2015, equation 10) and zero biases, drawn by NumPy: the same on all devices."""
    generator = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        deviation = np.sqrt(2.0 / np.prod(shape[:-1])) if len(shape) > 1 else 0.0
        weights.append((generator.standard_normal(shape) * deviation).astype(np.float32))
    return weights


def outputs(weights: Sequence[Floats32], images: Images) -> tuple[Floats32, Floats32]:
    """Return activations [N, 64] and scores [N, K] of `network` with these weights for uint8 images [N, H, W, C]."""
    _, size, _, channels = images.shape
    model = network(size, channels, len(weights[-1]))
    model.set_weights(weights)
    parts = [model(part, training=False) for part in _batches(images)]
    activations, scores = (np.concatenate([part[name].numpy() for part in parts]) for name in ("activations", "scores"))
    return activations, scores


def whitening_of(activations: Floats32) -> tuple[Floats32, Floats32]:
    """Return mean [D] and symmetric whitening matrix [D, D] of activations [N, D]."""
    centre = activations.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(np.cov(activations - centre, rowvar=False))
    variances = variances.clip(0.0) + max(SMALLEST_VARIANCE * float(variances[-1]), 1e-12)
    return centre.astype(np.float32), (directions / np.sqrt(variances) @ directions.T).astype(np.float32)


def _batches(images: Images) -> Iterator[npt.NDArray[np.uint8]]:
    return (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
