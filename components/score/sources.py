"""Where the images of a side come from: files, an archive, an array, a dataset artifact, or a generator that draws them."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from components.common.addresses import is_address, local_path
from components.common.artifacts import MANIFEST, read_manifest
from components.common.errors import ConfigError, DataRejectedError, first_line
from components.dataset.records import NO_LABEL
from components.dataset.stored_images import StoredImages, StoredSet, open_split
from components.evaluate.metrics.fid import Statistics
from components.generator.generator import SAVED_MODEL, drawn_in_fresh_process
from components.ingest.config import IngestConfig
from components.ingest.pixels.decode import DECODE_ERRORS, FORMATS
from components.ingest.sources.chunks import RawImage, Unread
from components.ingest.sources.readers import open_source as open_files
from components.ingest.sources.readers import read_chunk

AT_ONCE = 256
GREY_MODES = ("1", "L", "LA", "La", "I", "F")
ARRAYS = (".npy", ".npz")
NAMES = ("images", "arr_0")  # of the images in an .npz; NumPy and the scripts of diffusion models write arr_0
ARRAY_CURE = "Save uint8 images [N, H, W, 1 or 3]."

Images = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]  # width and height in pixels, 1 channel (grey) or 3 (RGB)
Raw = RawImage | Unread


class Source(NamedTuple):
    """The images of one side, REAL or FAKE: `read` yields each of the `total` images once.

    `array` are the images of sources that have one shape, `splits` training and held-out images of a dataset artifact.
    """

    side: str
    location: str
    kind: str
    total: int
    read: Callable[[], Iterator[Raw]]
    array: Images | StoredImages | None = None
    splits: tuple[StoredSet, StoredSet] | None = None
    label_names: Sequence[str] = ()
    digest: str = ""  # of a dataset artifact
    weights: str = "not drawn here"  # what drew the images, for the provenance

    def shapes(self) -> Counter[Shape]:
        """Return how many images have each shape; files that are not images are left out."""
        if self.array is not None:
            _, height, width, channels = self.array.shape
            return Counter({(width, height, channels): self.total})
        found = (_header(image.content) for image in self.read() if isinstance(image, RawImage))
        return Counter(shape for shape in found if shape)


def open_source(
    side: str, location: str, samples: int, seed: int, labels_from_folders: bool, stack: contextlib.ExitStack
) -> Source:
    """Open a side; a generator draws `samples` images, which exist until the stack is closed.

    Raises ConfigError when there is nothing that can be read, DataRejectedError when it is empty or a damaged archive.
    """
    path = Path(local_path(location)).expanduser()
    if not is_address(location) and path.suffix.lower() in ARRAYS and path.is_file():
        images = _load_array(side, path)
        return Source(side, location, "array", len(images), lambda: _as_files(images), images)
    if not is_address(location) and any((folder / "saved_model.pb").is_file() for folder in (path, path / SAVED_MODEL)):
        drawn = stack.enter_context(drawn_in_fresh_process(path, samples, seed)).images
        weights = "ema" if (path / MANIFEST).is_file() else "as saved"
        return Source(side, location, "generator", len(drawn), lambda: _as_files(drawn), drawn, weights=weights)
    if not is_address(location) and (path / MANIFEST).is_file():
        return _open_dataset(side, path)
    source = location if location == "digits" or location.startswith("tfds:") else f"images:{location}"
    config = IngestConfig(source=source, labels_from_folders=labels_from_folders and source.startswith("images:"))
    try:
        reader = open_files(config)
    except ConfigError as error:
        raise ConfigError(
            error.problem.replace(f'ingest.source = "{source}"', side), error.cure.replace("images:", "")
        ) from None
    except DataRejectedError as error:
        raise DataRejectedError(f"{side}: {error.problem}", error.cure) from None

    def read() -> Iterator[Raw]:
        return (image for chunk in reader.chunks for image in read_chunk(chunk))

    return Source(side, location, "images", reader.total, read, label_names=reader.label_names)


def read_statistics(location: str) -> Statistics | None:
    """Return the mean and covariance that FID programs publish as `mu` and `sigma` of an .npz; None for anything else.

    Raises ConfigError when they do not have the shapes [D] and [D, D] or are not finite.
    """
    path = Path(local_path(location)).expanduser()
    if is_address(location) or path.suffix.lower() != ".npz" or not path.is_file():
        return None
    with _loaded(path) as arrays:
        if not {"mu", "sigma"} <= set(arrays.files) or set(NAMES) & set(arrays.files):
            return None
        mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
    finite = np.isfinite(mean).all() and np.isfinite(covariance).all()
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not finite:
        raise ConfigError(
            f"REAL: {path} holds mu {list(mean.shape)} and sigma {list(covariance.shape)}, not finite arrays [D] and [D, D].",
            "Name statistics as FID programs write them.",
        )
    return Statistics(mean, covariance)


def _open_dataset(side: str, path: Path) -> Source:
    manifest = read_manifest(path, verify=False)
    if manifest.kind != "dataset":
        raise ConfigError(
            f"{side}: {path} is an artifact of the kind {manifest.kind}, which holds no images to score.",
            "Name a dataset, a model, or images.",
        )
    train, held_out = open_split(path, "train"), open_split(path, "eval")

    def read() -> Iterator[Raw]:
        yield from _as_files(train.images, train.labels, "train")
        if side == "REAL":
            yield from _as_files(held_out.images, held_out.labels, "eval")

    total = len(train.images) + (len(held_out.images) if side == "REAL" else 0)
    names = [str(name) for name in manifest.details.get("label_names", [])]
    return Source(side, str(path), "dataset", total, read, train.images, (train, held_out), names, manifest.digest)


def _as_files(images: Images | StoredImages, labels: npt.NDArray[np.int64] | None = None, split: str = "") -> Iterator[Raw]:
    """Yield an array as image files (PNM: a header and the pixels), which ingest's code decodes like any other."""
    for start in range(0, len(images), AT_ONCE):
        for at, image in enumerate(images[start : start + AT_ONCE], start):
            height, width, channels = image.shape
            head = b"P%d %d %d 255\n" % (5 if channels == 1 else 6, width, height)
            yield RawImage(f"image {at}", NO_LABEL if labels is None else int(labels[at]), split, head + image.tobytes())


def _header(content: bytes) -> Shape | None:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            grey = image.mode in GREY_MODES or image.mode.startswith("I;16")
            return image.width, image.height, 1 if grey else 3
    except (UnidentifiedImageError, Image.DecompressionBombError, *DECODE_ERRORS):
        return None  # reported when it is decoded


@contextlib.contextmanager
def _loaded(path: Path) -> Iterator[Any]:
    """Yield the content of an .npy or .npz file. Raises ConfigError."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        with loaded if path.suffix.lower() == ".npz" else contextlib.nullcontext(loaded) as content:
            yield content
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise ConfigError(f"{path} is damaged, or holds something else than arrays of numbers.", ARRAY_CURE) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {first_line(error)}.", ARRAY_CURE) from None


def _load_array(side: str, path: Path) -> Images:
    with _loaded(path) as content:
        if path.suffix.lower() == ".npz":
            names = list(content.files)
            name = next((name for name in NAMES if name in names), names[0] if len(names) == 1 else "")
            if not name:
                what = "statistics, which only REAL can be" if {"mu", "sigma"} <= set(names) else "no array `images`"
                raise ConfigError(f"{side}: {path} holds {', '.join(names) or 'nothing'}: {what}.", ARRAY_CURE)
            content = content[name]
        array: Any = content[..., None] if content.ndim == 3 else content
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3) or not array.size:
        order = "; the channels must come last" if array.ndim == 4 and array.shape[1] in (1, 3) else ""
        raise ConfigError(f"{side}: {path} holds {array.dtype} {list(array.shape)}, not images{order}.", ARRAY_CURE)
    images: Images = array
    return images
