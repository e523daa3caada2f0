"""Extractors that were made elsewhere: Keras' InceptionV3, and any SavedModel that turns images into features.

Published FIDs are of the 2015 Inception graph and its resize; with a SavedModel of that graph ours are comparable with them
as far as the resize is. Images are made as large as the extractor wants by bilinear interpolation, antialiased, as Parmar
et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", ask for.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import digest_of, write_text
from components.common.errors import ArtifactError, ConfigError, first_line
from components.common.progress import say
from components.dataset.stored_images import StoredImages

SETTINGS_FILE = "given_extractor.json"
BATCH_SIZE = 64
INCEPTION_SIZE, INCEPTION_FEATURES = 299, 2048
RANGES = {"0..255": (1.0, 0.0), "0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0)}

Floats32 = npt.NDArray[np.float32]
Range = Literal["0..255", "0..1", "-1..1"]


class GivenSettings(BaseModel):
    """What a given extractor is. `place` is a file or folder, empty for weights that Keras has downloaded.

    `image_size` and `channels` are those of the images; `size` is what they are resized to, 0 for as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["inception", "savedmodel"]
    place: str
    range: Range
    digest: str = ""
    image_size: int
    channels: int
    size: int = 0
    classes: int = 0
    scale: float = 1.0
    held_out_accuracy: float | None = None


class GivenExtractor:
    """An extractor whose weights stay where they are: what is kept of it is its place and the digest of its weights."""

    def __init__(self, settings: GivenSettings) -> None:
        self._asked = settings

    @cached_property
    def _network(self) -> tuple[Any, str, int]:
        """The function of float images to features, the digest of its weights, and the size it wants."""
        if self._asked.kind == "inception":
            return _inception(self._asked.place)
        return _saved_model(self._asked.place)

    @cached_property
    def settings(self) -> GivenSettings:
        """What it is. Raises ArtifactError when the weights are not those that `digest` names."""
        _, digest, size = self._network
        if self._asked.digest not in ("", digest):
            raise ArtifactError(
                f"The extractor at {self._asked.place or 'Keras'} has digest {digest[:12]}, not {self._asked.digest[:12]}: "
                "it has changed.",
                "Put the former weights back, or evaluate again with another evaluate.extractor_digest.",
            )
        return self._asked.model_copy(update={"digest": digest, "size": size})

    @property
    def digest(self) -> str:
        """The hex SHA-256 of weights, range and sizes; not of the place."""
        return digest_of(self.settings.model_dump(exclude={"place"}))

    @cached_property
    def width(self) -> int:
        """The number of features of an image."""
        shape = (1, self.settings.image_size, self.settings.image_size, self.settings.channels)
        return int(self.features(np.zeros(shape, np.uint8)).shape[1])

    @property
    def resize(self) -> str:
        """How images are made what the extractor wants, in words."""
        settings = self.settings
        native = f"{settings.image_size}×{settings.image_size}"
        size = f"{settings.size}×{settings.size}"
        how = f"none: native {native}" if settings.size in (0, settings.image_size) else f"bilinear, antialiased, to {size}"
        return f"{how}, values {settings.range.replace('..', ' to ')}"

    def features(self, images: npt.NDArray[np.uint8] | StoredImages) -> Floats32:
        """Return the features of uint8 images [N, H, W, C]: float32 [N, D]. Raises ArtifactError when they are none."""
        settings, (network, _, _) = self.settings, self._network
        found = [network(self._input(images[at : at + BATCH_SIZE])) for at in range(0, len(images), BATCH_SIZE)]
        widths = {part.shape[1:] for part in found}
        if len(widths) > 1 or not all(np.isfinite(part).all() for part in found):
            problem = "of unequal width" if len(widths) > 1 else "that are not finite"
            raise ArtifactError(
                f"The extractor {settings.place or settings.kind} makes features {problem}.", "Use another one."
            )
        features: Floats32 = np.concatenate(found)
        if len(features) > 1 and not (features != features[0]).any():
            raise ArtifactError(
                f"The extractor {settings.place or settings.kind} gives the same features to all images.", "Use another one."
            )
        return features

    def _input(self, images: npt.NDArray[np.uint8]) -> Any:
        import tensorflow as tf

        settings = self.settings
        pixels = tf.cast(images, tf.float32)
        if settings.channels == 1:
            pixels = tf.repeat(pixels, 3, axis=3)
        if settings.size not in (0, settings.image_size):
            pixels = tf.image.resize(pixels, (settings.size, settings.size), method="bilinear", antialias=True)
        factor, offset = RANGES[settings.range]
        return pixels * factor + offset

    def classes_of(self, features: Floats32) -> npt.NDArray[np.int64]:
        """A given extractor tells no classes of the dataset."""
        raise NotImplementedError(f"{self._asked.kind} has no classes of this dataset for {len(features)} images")

    def save(self, folder: Path) -> None:
        """Write where it is and what its digest is, not the weights themselves. Raises ArtifactError."""
        write_text(folder / SETTINGS_FILE, self.settings.model_dump_json(indent=1))


def load_given(folder: Path) -> GivenExtractor:
    """Read what `save` wrote. Raises ArtifactError; weights that are gone or have changed are found when it is used."""
    try:
        return GivenExtractor(GivenSettings.model_validate_json((folder / SETTINGS_FILE).read_bytes()))
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{folder} holds no extractor: {first_line(error)}.", "Run evaluate again.") from error


def _inception(place: str) -> tuple[Any, str, int]:
    import keras

    shape = (INCEPTION_SIZE, INCEPTION_SIZE, 3)
    try:
        model = keras.applications.InceptionV3(
            include_top=False, pooling="avg", weights=None if place else "imagenet", input_shape=shape
        )
        if place:
            _must_be_there(Path(place), "evaluate.extractor_weights")
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # Keras only warns of layers that it found no weights for
                model.load_weights(place)
    except (OSError, ValueError, TypeError, KeyError, UserWarning) as error:
        what = f"evaluate.extractor_weights = {place} holds no weights of InceptionV3" if place else "no weights came"
        raise ConfigError(
            f'evaluate.extractor = "inception": {what}: {first_line(error)}.',
            "Name the file inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5 of Keras.",
        ) from error
    hashed = hashlib.sha256()
    for array in model.get_weights():
        hashed.update(repr(array.shape).encode() + np.ascontiguousarray(array, np.float32).tobytes())
    return (lambda images: model(images, training=False).numpy()), hashed.hexdigest(), INCEPTION_SIZE


def _saved_model(place: str) -> tuple[Any, str, int]:
    import tensorflow as tf

    folder = Path(place)
    _must_be_there(folder / "saved_model.pb", "evaluate.extractor")
    try:
        model = tf.saved_model.load(place)
    except (OSError, ValueError, tf.errors.OpError) as error:
        problem = first_line(error)
        raise ConfigError(f"evaluate.extractor: {place} cannot be loaded: {problem}.", "Name a SavedModel.") from error
    name, function = _only(dict(model.signatures), "serving_default", f"{place} has", "signature")
    wanted, spec = _only(function.structured_input_signature[1], "images", f"Signature {name} of {place} takes", "input")
    given, _ = _only(function.structured_outputs, "features", f"Signature {name} of {place} gives", "output")
    shape = spec.shape.as_list() if spec.shape.rank is not None else []
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise ConfigError(
            f"evaluate.extractor: {place} takes {spec.dtype.name} {shape}, not square images [N, H, W, 3].", "Use another one."
        )

    def network(images: Any) -> Floats32:
        cast = tf.cast(tf.round(images), spec.dtype) if spec.dtype.is_integer else tf.cast(images, spec.dtype)
        try:
            found = function(**{wanted: cast})[given].numpy()
        except (ValueError, tf.errors.OpError) as error:
            problem = first_line(error)
            raise ArtifactError(
                f"The extractor {place} failed on {list(images.shape)}: {problem}.", "Use another one."
            ) from error
        if found.ndim not in (2, 4) or (found.ndim == 4 and found.shape[1:3] != (1, 1)) or len(found) != len(images):
            raise ArtifactError(f"The extractor {place} gives {list(found.shape)}, not [N, D].", "Use another one.")
        return np.asarray(found.reshape(len(found), -1), np.float32)

    return network, _digest_of_files(folder), int(shape[1] or 0)


def _only(found: Any, preferred: str, where: str, what: str) -> tuple[str, Any]:
    """Return the one thing of its kind, or that of the preferred name among several. Raises ConfigError."""
    if preferred in found:
        return preferred, found[preferred]
    if len(found) == 1:
        ((name, value),) = found.items()
        return str(name), value
    names = ", ".join(sorted(map(str, found))) or "none"
    raise ConfigError(f"evaluate.extractor: {where} {len(found)} {what}s ({names}).", f"Name one of them `{preferred}`.")


def _must_be_there(path: Path, key: str) -> None:
    if not path.is_file():
        raise ConfigError(f"{key}: {path} is not there.", "Name one that exists on the machine of this step.")


def _digest_of_files(folder: Path) -> str:
    """Return the SHA-256 of the graph and the variables; the fingerprint file that some writers add changes nothing."""
    hashed = hashlib.sha256()
    for file in sorted([folder / "saved_model.pb", *folder.glob("variables/*"), *folder.glob("assets/*")]):
        hashed.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()


def say_what(made: GivenExtractor) -> None:
    """Tell what features are made by."""
    say(f"features of {made.settings.kind}, {made.width} an image, weights {made.settings.digest[:12]}; resize {made.resize}")
