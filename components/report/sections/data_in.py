"""What went into a run: how many images, of which labels, how bright, and which were refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.common.images import grid, png_bytes
from components.report.artifact_reader import Opened
from components.report.formatting import number, percent
from components.report.plots.bars import Bars, to_bars
from components.report.plots.figures import Figure, figure
from components.report.sections.validation import Validation, describe_validation

SHOWN_IMAGES, GRID_COLUMNS = 64, 16
SHOWN_QUARANTINE = 20
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Data:
    """The section on what went in; whatever could not be read is empty and has a sentence in `notes`."""

    source: str
    counts: tuple[tuple[str, int, str], ...]
    image: str
    resize: str
    labels: Bars
    statistics: tuple[tuple[str, ...], ...]
    quarantine: tuple[tuple[str, str, str], ...]
    quarantine_reasons: Bars
    real: Figure | None
    validation: Validation
    notes: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.counts or self.notes)


def describe_data(dataset: Opened, validation: Opened) -> Data:
    """Return the section from the dataset and the validation of a run."""
    counts: dict[str, Any] = dict(dataset.manifest.counts if dataset.manifest else dataset.summary)
    details = dataset.manifest.details if dataset.manifest else {}
    labels = dataset.attempt("The label histogram", lambda: label_bars(details)) or Bars()
    statistics = validation.manifest and validation.attempt(
        "The statistics", lambda: statistics_rows(validation.content("statistics.json"))
    )
    quarantine = dataset.manifest and dataset.attempt("The quarantine", lambda: _quarantine(dataset))
    reasons = dataset.manifest and dataset.attempt("The reasons of the quarantine", lambda: _quarantine_reasons(dataset))
    found = describe_validation(validation)
    real = dataset.manifest and dataset.attempt("Real images", lambda: _real_images(dataset))
    return Data(
        source=str(details.get("source", "")),
        counts=count_rows(counts),
        image=_image(details),
        resize=str(details.get("resize", "")),
        labels=labels,
        statistics=statistics or (),
        quarantine=quarantine or (),
        quarantine_reasons=reasons or Bars(),
        real=real or None,
        validation=found,
        notes=(*dataset.notes, *validation.notes),
    )


def count_rows(counts: Mapping[str, Any]) -> tuple[tuple[str, int, str], ...]:
    """Return (what, images, share of all that were read), in the order of read = kept + duplicate + quarantined."""
    read = int(counts.get("read", 0))
    names = [name for name in ("read", "kept", "duplicate", "quarantined", "train", "eval") if name in counts]
    return tuple((name, int(counts[name]), percent(int(counts[name]), read)) for name in names)


def label_bars(details: Mapping[str, Any]) -> Bars:
    """Return the label histogram of a dataset, {split: {label: images}}, over all splits; empty without labels."""
    images: Counter[str] = Counter()
    for split in details.get("label_histogram", {}).values():
        images.update(split)
    return Bars() if set(images) <= {UNLABELLED} else to_bars(list(images.items()), number)


def statistics_rows(content: bytes) -> tuple[tuple[str, ...], ...]:
    """Return statistics.json as rows: split, images, shape, channel, mean, deviation, lowest and highest grey level."""
    rows = []
    for split, found in json.loads(content).items():
        shape = " × ".join(str(side) for side in found["shape"])
        for channel, (mean, deviation) in enumerate(zip(found["mean"], found["deviation"], strict=True)):
            span = f"{number(found['minimum'])} to {number(found['maximum'])}"
            row = (split, number(found["count"]), shape, str(channel), number(mean), number(deviation), span)
            rows.append(row)
    return tuple(rows)


def _quarantine(dataset: Opened) -> tuple[tuple[str, str, str], ...]:
    lines = dataset.lines("quarantine.jsonl", SHOWN_QUARANTINE)
    return tuple((str(line["id"]), str(line["reason"]), str(line.get("detail", ""))) for line in lines)


def _quarantine_reasons(dataset: Opened) -> Bars:
    reasons = Counter(str(line["reason"]) for line in dataset.lines("quarantine.jsonl"))
    return to_bars(reasons.most_common(), number)


def _real_images(dataset: Opened) -> Figure:
    images = dataset.images("train", SHOWN_IMAGES)
    text = f"The first {len(images)} training images, as the critic sees them."
    return figure(png_bytes(grid(images, GRID_COLUMNS)), f"Grid of {len(images)} real training images", text)


def _image(details: Mapping[str, Any]) -> str:
    if "image_size" not in details:
        return ""
    size, channels = details["image_size"], details.get("channels")
    colours = {1: "grey", 3: "RGB"}.get(channels if isinstance(channels, int) else 0, f"{channels} channels")
    return f"{size} × {size} pixels, {colours}"
