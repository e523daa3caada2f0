"""The data of a run: how many images, their labels and grey levels, and those that were quarantined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from components.common.images import grid, png_bytes, viewable_scale
from components.report.artifact_reader import ArtifactReader
from components.report.formatting import number, percent
from components.report.plots.bars import Bars, to_bars
from components.report.plots.figures import Figure, figure

SHOWN_IMAGES, GRID_COLUMNS = 64, 16
SHOWN_QUARANTINE = 20
COUNTS = ("read", "kept", "duplicate", "quarantined", "train", "eval")
UNLABELLED = "unlabelled"


class DataSection:
    """The section; an attribute is empty if its content could not be read, and `notes` say why."""

    def __init__(self, dataset: ArtifactReader, validation: ArtifactReader) -> None:
        details = dataset.manifest.details if dataset.manifest else {}
        self.source = str(details.get("source", ""))
        self.counts = count_rows(dataset.manifest.counts if dataset.manifest else dataset.summary)
        self.image = _image(details)
        self.resize = str(details.get("resize", ""))
        self.labels = dataset.attempt("The label histogram", lambda: label_bars(details), Bars())
        self.statistics = validation.attempt("The statistics", lambda: statistics_rows(validation.json("statistics.json")), ())
        quarantine = dataset.attempt("The quarantine", lambda: _quarantine(dataset), ())
        self.quarantine = quarantine[:SHOWN_QUARANTINE]
        self.quarantine_reasons = to_bars(Counter(reason for _, reason, _ in quarantine).most_common(), number)
        self.real = dataset.attempt("The grid of real images", lambda: _real_images(dataset), None)
        self.notes = (*dataset.notes, *validation.notes)
        self.empty = not (self.counts or self.notes)


def count_rows(counts: Mapping[str, Any]) -> tuple[tuple[str, int, str], ...]:
    """Return (name, images, share of all that were read)."""
    read = int(counts.get("read", 0))
    return tuple((name, int(counts[name]), percent(int(counts[name]), read)) for name in COUNTS if name in counts)


def label_bars(details: Mapping[str, Any]) -> Bars:
    """Return the label histogram of a dataset, {split: {label: images}}, summed over the splits; empty without labels."""
    images: Counter[str] = Counter()
    for split in details.get("label_histogram", {}).values():
        images.update(split)
    return Bars() if set(images) <= {UNLABELLED} else to_bars(list(images.items()), number)


def statistics_rows(statistics: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return statistics.json as rows: split, images, shape, channel, mean, deviation, lowest and highest grey level."""
    rows = []
    for name, split in statistics.items():
        shape = " × ".join(str(side) for side in split["shape"])
        span = f"{number(split['minimum'])} to {number(split['maximum'])}"
        for channel, (mean, deviation) in enumerate(zip(split["mean"], split["deviation"], strict=True)):
            rows.append((name, number(split["count"]), shape, str(channel), number(mean), number(deviation), span))
    return tuple(rows)


def _quarantine(dataset: ArtifactReader) -> tuple[tuple[str, str, str], ...]:
    lines = dataset.lines("quarantine.jsonl")
    return tuple((str(line["id"]), str(line["reason"]), str(line.get("detail", ""))) for line in lines)


def _real_images(dataset: ArtifactReader) -> Figure:
    images = dataset.images("train", SHOWN_IMAGES)
    text = f"The first {len(images)} training images, as the critic sees them."
    laid_out = grid(images, GRID_COLUMNS, viewable_scale(images.shape[1]))  # as the samples are
    return figure(png_bytes(laid_out), f"Grid of {len(images)} real training images", text)


def _image(details: Mapping[str, Any]) -> str:
    if "image_size" not in details:
        return ""
    size, channels = details["image_size"], details.get("channels")
    colours = "grey" if channels == 1 else "RGB" if channels == 3 else f"{channels} channels"
    return f"{size} × {size} pixels, {colours}"
