"""Look at the images of a source: how many, how large, in colour or grey, transparent, with which labels.

All files are listed and a sample of them is decoded, by the code that ingest uses.
"""

from __future__ import annotations

import itertools
import operator
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.common.addresses import MANIFESTS, suffix_in
from components.common.errors import first_line
from components.ingest.config import Decoding, IngestConfig
from components.ingest.pixels.crop import crop
from components.ingest.pixels.decode import load_image, pillow_prepared, to_mode
from components.ingest.sources.chunks import CannotReadError, Chunk, ChunkPacker, RawImage, Reader, Unread, listed_images
from components.ingest.sources.readers import open_source, read_chunk

SAMPLE, GROUP = 400, 8  # images to decode at most, and how many before the budget is checked
SAMPLE_BYTES, SAMPLE_PIXELS = 2**28, 2**28  # the budget: decoding that much takes seconds
SIDE = 32  # colours are judged at this height and width in pixels
COLOUR_LEVELS, COLOUR_SHARE = 24, 0.01  # an image has colour if its channels differ by so many levels in this share of pixels
BLANK_DEVIATION = 2.0  # in grey levels, as validate.blank_deviation
BITS = 4  # of a channel, for counting equal colours


@dataclass
class Look:
    """What was found. `files` and `labels` are those of the whole source; all else is of the sample, read in `seconds`.

    `labels` maps each label to its number of files; "" stands for files without one. `labels_are_folders` is False for a list
    with a column of labels. `problems` say why files could not be read, `sizes` are (width, height) in pixels, `different` is
    the number of different pictures. `coloured`, `transparent` and `blank` count images; `common_share` is the share of all
    pixels that have the most common colour.
    """

    files: int
    labels: dict[str, int]
    labels_are_folders: bool = True
    problems: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    different: int = 0
    coloured: int = 0
    transparent: int = 0
    blank: int = 0
    common_share: float = 0.0
    common_colour: str = ""
    seconds: float = 0.0

    @property
    def readable(self) -> int:
        """Number of images that were decoded."""
        return len(self.sizes)

    @property
    def sampled(self) -> int:
        """Number of files that were read."""
        return len(self.sizes) + len(self.problems)

    @property
    def images(self) -> int:
        """Estimated number of different images in the source."""
        return round(self.files * self.different / self.sampled)

    @property
    def side(self) -> int:
        """Median of the shorter sides in pixels."""
        return int(statistics.median(min(size) for size in self.sizes))


def look_at(config: IngestConfig) -> Look:
    """Look at the images of config.source, which is "images:LOCATION".

    Raises ConfigError if the source does not exist, DataRejectedError if it is empty or a damaged archive.
    """
    folders = not suffix_in(config.source, MANIFESTS)
    reader = open_source(config.model_copy(update={"labels_from_folders": folders}))
    look, started, read_bytes = Look(reader.total, _count_labels(reader), folders), time.monotonic(), 0
    settings, found = Decoding(SIDE, 3, max_pixels=config.max_pixels), []
    with pillow_prepared(config.max_pixels):
        for group in _sample(reader):
            for item in itertools.chain.from_iterable(map(read_chunk, group)):
                try:
                    found.append(_decode(item, settings, look))
                except CannotReadError as error:
                    detail = "" if error.reason == "not an image" else f": {error.detail}"
                    look.problems.append(f"{item.id} ({error.reason}{detail})")
                read_bytes += len(item.content) if isinstance(item, RawImage) else 0
            if read_bytes > SAMPLE_BYTES or sum(width * height for width, height in look.sizes) > SAMPLE_PIXELS:
                break
    look.seconds = time.monotonic() - started
    if found:
        _judge(look, np.stack(found))
    return look


def _count_labels(reader: Reader) -> dict[str, int]:
    counts = Counter(image.label for chunk in reader.chunks for image in listed_images(*chunk[-4:]))
    return {reader.label_names[label] if label >= 0 else "": count for label, count in sorted(counts.items())}


def _sample(reader: Reader) -> Iterator[list[Chunk]]:
    """Yield SAMPLE images, evenly spread over the source, as groups of chunks; each group is spread over the source too."""
    positions = set(np.linspace(0, reader.total - 1, min(reader.total, SAMPLE)).round().astype(int).tolist())
    chosen, start = [], 0
    for *head, names, numbers, labels, splits in reader.chunks:
        images = list(listed_images(names, numbers, labels, splits))
        chosen += [(head, image) for position, image in enumerate(images, start) if position in positions]
        start += len(images)
    groups = 1 if chosen[0][0][0] == "tar.gz" else -(-len(chosen) // GROUP)  # a .tar.gz is unpacked from its beginning
    for first in range(groups):
        group = []
        for head, images_of_head in itertools.groupby(chosen[first::groups], key=operator.itemgetter(0)):
            packer = ChunkPacker(*head, whole=True)
            for _, image in images_of_head:
                packer.add(image.name, 0, image.numbers)
            group += packer.reader().chunks
        yield group


def _decode(item: RawImage | Unread, settings: Decoding, look: Look) -> npt.NDArray[np.uint8]:
    """Return an image as RGB [SIDE, SIDE, 3]; add its size and transparency to `look`. Raises CannotReadError."""
    if isinstance(item, Unread):
        raise CannotReadError(item.reason, item.detail)
    image, height, width = load_image(item.content, settings)
    try:
        transparent = image.has_transparency_data and _has_holes(image)
        small = crop(to_mode(image, "RGB"), settings, height, width)
    except (ValueError, MemoryError) as error:
        raise CannotReadError("unsupported pixels", first_line(error)) from None
    look.sizes.append((width, height))
    look.transparent += transparent
    return np.asarray(small)


def _has_holes(image: Image.Image) -> bool:
    """Return whether a pixel is not opaque: many files have an alpha channel that is not used."""
    return bool((np.asarray(image.convert("RGBA").getchannel("A")) < 255).any())


def _judge(look: Look, pixels: npt.NDArray[np.uint8]) -> None:
    """Count different, coloured and blank images among pixels [N, SIDE, SIDE, 3], and find the most common colour."""
    look.different = len({image.tobytes() for image in pixels})
    coloured = (np.ptp(pixels, axis=-1) >= COLOUR_LEVELS).mean(axis=(1, 2)) >= COLOUR_SHARE
    look.coloured = int(coloured.sum())
    look.blank = int((pixels.std(axis=(1, 2)).max(axis=-1) < BLANK_DEVIATION).sum())
    codes = (pixels >> 8 - BITS).astype(np.int64) @ [1 << 2 * BITS, 1 << BITS, 1]
    counts = np.bincount(codes.ravel())
    most = int(counts.argmax())
    look.common_share = float(counts[most] / counts.sum())
    look.common_colour = "#" + "".join(f"{(most >> shift & 15) * 17:02x}" for shift in (2 * BITS, BITS, 0))
