"""External extractors: the Inception graph of 2015, Keras' InceptionV3, and any SavedModel that turns images into features.

Published FIDs use the graph of 2015 (Heusel et al. 2017), which resizes images itself, without antialiasing. For the others,
images are resized by bilinear interpolation with antialiasing, as recommended by Parmar et al. 2022, "On Aliased Resizing and
Surprising Subtleties in GAN Evaluation".
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import digest_of, write_text
from components.common.errors import ArtifactError, ConfigError, first_line
from components.dataset.stored_images import StoredImages

SETTINGS_FILE = "external_extractor.json"
BATCH_SIZE = 64
INCEPTION_SIZE = 299
# In the graph of 2015: its images, 0 to 255 and of any size, before it resizes them; and the features [N, 1, 1, 2048].
GRAPH_IMAGES, GRAPH_FEATURES = "ExpandDims:0", "pool_3:0"
RANGES = {"0..255": (1.0, 0.0), "0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0)}  # factor and offset of pixel values

Floats32 = npt.NDArray[np.float32]
Range = Literal["0..255", "0..1", "-1..1"]


class ExternalSettings(BaseModel):
    """The settings of an external extractor. `location` is a file or folder, empty for weights that Keras downloads.

    `image_size` and `channels` are those of the images; `size` is the size that they are resized to, 0 for no resize.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["inception", "inception-2015", "savedmodel"]
    location: str
    range: Range
    digest: str = ""
    image_size: int
    channels: int
    size: int = 0
    classes: int = 0
    held_out_accuracy: float | None = None
    told_apart: float | None = None


class Network(NamedTuple):
    """Float images [N, H, W, 3] to features [N, D]; the digest of the weights; the size of the images (0: any)."""

    compute: Callable[[Any], Floats32]
    digest: str
    size: int


class ExternalExtractor:
    """An extractor whose weights stay where they are; only their location and digest are saved."""

    def __init__(self, settings: ExternalSettings) -> None:
        """Load the network. Raises ConfigError, and ArtifactError if the weights do not have the digest of the settings."""
        network = NETWORKS[settings.kind](settings.location)
        if settings.digest not in ("", network.digest):
            raise ArtifactError(
                f"The extractor at {settings.location or 'Keras'} has digest {network.digest[:12]}, not "
                f"{settings.digest[:12]}: it has changed.",
                "Restore the former weights, or evaluate again with another evaluate.extractor_digest.",
            )
        self._compute = network.compute
        self.settings = settings.model_copy(update={"digest": network.digest, "size": network.size})

    @property
    def digest(self) -> str:
        """The hex SHA-256 of weights, range and sizes; the location is not included."""
        return digest_of(self.settings.model_dump(exclude={"location"}))

    @cached_property
    def width(self) -> int:
        """The number of features of an image."""
        shape = (1, self.settings.image_size, self.settings.image_size, self.settings.channels)
        return int(self.features(np.zeros(shape, np.uint8)).shape[1])

    @property
    def resize(self) -> str:
        """A description of how images are resized and scaled."""
        settings = self.settings
        native = f"{settings.image_size}×{settings.image_size}"
        size = f"{settings.size}×{settings.size}"
        how = f"none: native {native}" if settings.size in (0, settings.image_size) else f"bilinear, antialiased, to {size}"
        if settings.kind == "inception-2015":
            how = f"bilinear, not antialiased, to {INCEPTION_SIZE}×{INCEPTION_SIZE}, by the network itself"
        return f"{how}, values {settings.range.replace('..', ' to ')}"

    def features(self, images: npt.NDArray[np.uint8] | StoredImages, *, may_be_equal: bool = False) -> Floats32:
        """Return the features of uint8 images [N, H, W, C]: float32 [N, D].

        Raises ArtifactError if they are unusable, as features are that are equal for all images, unless they may be.
        """
        parts = [self._compute(self._input(images[start : start + BATCH_SIZE])) for start in range(0, len(images), BATCH_SIZE)]
        problem = ""
        if len({part.shape[1:] for part in parts}) > 1:
            problem = "features of unequal width"
        elif not all(np.isfinite(part).all() for part in parts):
            problem = "features that are not finite"
        elif not may_be_equal and all((part == parts[0][0]).all() for part in parts) and _differ(images):
            problem = "the same features for all images"
        if problem:
            name = self.settings.location or self.settings.kind
            raise ArtifactError(f"The extractor {name} returns {problem}.", "Use another one.")
        return np.concatenate(parts)

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

    def save(self, folder: Path) -> None:
        """Write location and digest, but not the weights. Raises ArtifactError."""
        write_text(folder / SETTINGS_FILE, self.settings.model_dump_json(indent=1))


def load_external(folder: Path) -> ExternalExtractor:
    """Read what `save` wrote and load the network. Raises ArtifactError and ConfigError."""
    try:
        settings = ExternalSettings.model_validate_json((folder / SETTINGS_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{folder} does not contain an extractor: {first_line(error)}.", "Run evaluate again.") from error
    return ExternalExtractor(settings)


def _differ(images: npt.NDArray[np.uint8] | StoredImages) -> bool:
    first = images[:1]
    return any((images[start : start + BATCH_SIZE] != first).any() for start in range(0, len(images), BATCH_SIZE))


def _inception_2015(location: str) -> Network:
    import tensorflow as tf

    _check_exists(Path(location), "evaluate.extractor_weights")
    content = Path(location).read_bytes()
    graph, definition = tf.Graph(), tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(content)
        with graph.as_default():  # a session, because functions of TensorFlow 2 refuse the graph's old operations
            pixels = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
            (features,) = tf.compat.v1.import_graph_def(
                definition, input_map={GRAPH_IMAGES: pixels}, return_elements=[GRAPH_FEATURES], name=""
            )
    except (DecodeError, ValueError) as error:
        raise ConfigError(
            f'evaluate.extractor = "inception": {location} is not the Inception graph of 2015: {first_line(error)}.',
            "Set evaluate.extractor_weights to classify_image_graph_def.pb.",
        ) from error
    session = tf.compat.v1.Session(graph=graph)

    def compute(images: Any) -> Floats32:
        found: Floats32 = session.run(features, {pixels: images.numpy()})
        return found.reshape(len(found), -1)

    return Network(compute, hashlib.sha256(content).hexdigest(), 0)


def _inception(location: str) -> Network:
    import keras

    shape = (INCEPTION_SIZE, INCEPTION_SIZE, 3)
    try:
        model = keras.applications.InceptionV3(
            include_top=False, pooling="avg", weights=None if location else "imagenet", input_shape=shape
        )
        if location:
            _check_exists(Path(location), "evaluate.extractor_weights")
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # Keras only warns about layers without weights in the file
                model.load_weights(location)
    except (OSError, ValueError, TypeError, KeyError, UserWarning) as error:
        what = f"{location} does not contain weights of InceptionV3" if location else "the weights cannot be downloaded"
        raise ConfigError(
            f'evaluate.extractor = "inception": {what}: {first_line(error)}.',
            "Set evaluate.extractor_weights to Keras' file inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5.",
        ) from error
    hashed = hashlib.sha256()
    for array in model.get_weights():
        hashed.update(repr(array.shape).encode() + np.ascontiguousarray(array, np.float32).tobytes())
    return Network(lambda images: model(images, training=False).numpy(), hashed.hexdigest(), INCEPTION_SIZE)


def _saved_model(location: str) -> Network:
    import tensorflow as tf

    folder = Path(location)
    _check_exists(folder / "saved_model.pb", "evaluate.extractor")
    try:
        model = tf.saved_model.load(location)
    except (OSError, ValueError, tf.errors.OpError) as error:
        problem = f"evaluate.extractor: {location} cannot be loaded: {first_line(error)}."
        raise ConfigError(problem, "Name a SavedModel.") from error
    name, function = _only(dict(model.signatures), "serving_default", f"{location} has", "signature")
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    argument, spec = _only(inputs, "images", f"signature {name} of {location} takes", "input")
    output, _ = _only(outputs, "features", f"signature {name} of {location} returns", "output")
    shape = spec.shape.as_list() if spec.shape.rank is not None else []
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        problem = f"evaluate.extractor: {location} takes {spec.dtype.name} {shape}, not square images [N, H, W, 3]."
        raise ConfigError(problem, "Use another one.")

    def compute(images: Any) -> Floats32:
        cast = tf.cast(tf.round(images), spec.dtype) if spec.dtype.is_integer else tf.cast(images, spec.dtype)
        try:
            features = function(**{argument: cast})[output].numpy()
        except (ValueError, tf.errors.OpError) as error:
            problem = f"The extractor {location} failed on {list(images.shape)}: {first_line(error)}."
            raise ArtifactError(problem, "Use another one.") from error
        if (
            features.ndim not in (2, 4)
            or (features.ndim == 4 and features.shape[1:3] != (1, 1))
            or len(features) != len(images)
        ):
            raise ArtifactError(f"The extractor {location} returns {list(features.shape)}, not [N, D].", "Use another one.")
        return np.asarray(features.reshape(len(features), -1), np.float32)

    return Network(compute, _digest_of_files(folder), int(shape[1] or 0))


NETWORKS: dict[str, Callable[[str], Network]] = {
    "inception": _inception,
    "inception-2015": _inception_2015,
    "savedmodel": _saved_model,
}


def _only(choices: Any, preferred: str, where: str, what: str) -> tuple[str, Any]:
    """Return the choice with the preferred name, or the only one. Raises ConfigError."""
    if preferred in choices:
        return preferred, choices[preferred]
    if len(choices) == 1:
        ((name, value),) = choices.items()
        return str(name), value
    names = ", ".join(sorted(map(str, choices))) or "none"
    raise ConfigError(f"evaluate.extractor: {where} {len(choices)} {what}s ({names}).", f"Name one of them `{preferred}`.")


def _check_exists(path: Path, key: str) -> None:
    if not path.is_file():
        raise ConfigError(f"{key}: {path} does not exist.", "Name a path that exists on the machine of this step.")


def _digest_of_files(folder: Path) -> str:
    """Return the SHA-256 of graph, variables and assets; fingerprint.pb, which not all writers add, is left out."""
    hashed = hashlib.sha256()
    for file in sorted([folder / "saved_model.pb", *folder.glob("variables/*"), *folder.glob("assets/*")]):
        hashed.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()
