"""The worst images of a dataset, so that a person can look at them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.common.artifacts import write_json
from components.common.images import grid, viewable_scale, write_png
from components.dataset.records import decode_example, read_tfrecord_part
from components.validate.statistics.tally import CELL, CELLS_A_SIDE, WORST, Tally

FILE = "worst.json"


class Found(NamedTuple):
    """One image: its id, and where its record is."""

    id: str
    file: str
    byte: int


def worst_images(tally: Tally) -> dict[str, list[Found]]:
    """Return at most WORST images of each kind, the worst first."""
    kinds = {kind: [Found(*item[1:]) for item in tally.worst.get(kind, [])] for kind in ("blankest", "darkest", "brightest")}
    return kinds | {"most unlike": most_unlike(tally)}


def most_unlike(tally: Tally) -> list[Found]:
    """Return images of which few have the brightness and contrast, those of the emptiest cells first, then the farthest."""
    middle = [_median_bucket(tally.brightness) // CELL, _median_bucket(tally.contrast) // CELL]

    def key(item: tuple[int, tuple[int, tuple[str, str, int]]]) -> tuple[int, int, str]:
        cell, (count, name) = item
        bright, contrast = divmod(cell, CELLS_A_SIDE)
        return count, -((bright - middle[0]) ** 2 + (contrast - middle[1]) ** 2), name[0]

    return [Found(*name) for _, (_, name) in sorted(tally.cells.items(), key=key)[:WORST]]


def _median_bucket(histogram: np.ndarray) -> int:
    return int(np.searchsorted(np.cumsum(histogram), histogram.sum() / 2))


def write_worst(folder: Path, dataset: Path, tally: Tally, image_size: int) -> None:
    """Write worst-KIND.png, a row of images each, and worst.json with their ids. Raises ArtifactError."""
    kinds = worst_images(tally)
    for kind, found in kinds.items():
        images = [_image(dataset, item, image_size, tally.channels) for item in found]
        if images:
            write_png(folder / png_name(kind), grid(np.stack(images), WORST, viewable_scale(image_size)))
    write_json(folder / FILE, {kind: [item.id for item in found] for kind, found in kinds.items()})


def png_name(kind: str) -> str:
    """Return the file of a kind's images."""
    return f"worst-{kind.replace(' ', '-')}.png"


def _image(dataset: Path, found: Found, image_size: int, channels: int) -> np.ndarray:
    (serialized,) = read_tfrecord_part(dataset / found.file, found.byte, 1)
    return decode_example(serialized, image_size, channels).image
