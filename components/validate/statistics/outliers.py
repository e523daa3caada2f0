"""The worst images of a dataset, for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.common.artifacts import write_json
from components.common.images import grid, viewable_scale, write_png
from components.dataset.records import decode_example, read_tfrecord_part
from components.validate.statistics.tally import CELL, CELLS_A_SIDE, WORST, RecordRef, Tally

FILE = "worst.json"


def worst_images(tally: Tally) -> dict[str, list[RecordRef]]:
    """Return at most WORST images of each kind, the worst first."""
    kinds = {kind: [RecordRef(*item[1:]) for item in items] for kind, items in tally.worst.items()}
    return kinds | {"most unlike": most_unlike(tally)}


def most_unlike(tally: Tally) -> list[RecordRef]:
    """Return images with a rare combination of brightness and contrast: the rarest first, then the farthest from the median."""
    middle = [int(np.searchsorted(np.cumsum(of), of.sum() / 2)) // CELL for of in (tally.brightness, tally.contrast)]

    def key(cell: int) -> tuple[int, int, str]:
        count, (id, *_) = tally.cells[cell]
        brightness, contrast = divmod(cell, CELLS_A_SIDE)
        return count, -((brightness - middle[0]) ** 2 + (contrast - middle[1]) ** 2), id

    return [RecordRef(*tally.cells[cell][1]) for cell in sorted(tally.cells, key=key)[:WORST]]


def write_worst(folder: Path, dataset: Path, tally: Tally, image_size: int) -> None:
    """Write worst-KIND.png, a row of images for each kind, and worst.json with their ids. Raises ArtifactError."""
    kinds = worst_images(tally)
    for kind, refs in kinds.items():
        records = (next(read_tfrecord_part(dataset / ref.file, ref.byte, 1)) for ref in refs)
        images = [decode_example(record, image_size, tally.channels).image for record in records]
        if images:
            write_png(folder / f"worst-{kind.replace(' ', '-')}.png", grid(np.stack(images), WORST, viewable_scale(image_size)))
    write_json(folder / FILE, {kind: [ref.id for ref in refs] for kind, refs in kinds.items()})
