"""The validation of the data: this snapshot beside the last accepted one, anomalies, histograms, and outliers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.common.errors import PipelineError
from components.common.journal import ArtifactRef
from components.report.artifact_reader import ArtifactReader, open_finished
from components.report.formatting import number, percent
from components.report.plots.chart import Chart
from components.report.plots.figures import Figure
from components.report.plots.histograms import draw_histogram
from components.report.rendering import render_sections
from components.report.sections.data import DataSection
from components.validate.drift.history import History

SHOWN_LABELS = 30
TITLES = {
    "brightness": ("Brightness of images", "Images by the mean of their grey levels."),
    "contrast": ("Contrast of images", "Images by the standard deviation of their grey levels."),
    "label_name": ("Label shares", ""),
    "image": ("Near-blank share", ""),
    "features": ("Features of an extractor", ""),
}
OUTLIERS = {
    "blankest": "Blankest: those with the lowest contrast",
    "darkest": "Darkest",
    "brightest": "Brightest",
    "most unlike": "Most unusual: few other images have their brightness and contrast",
}
OUTCOMES = {
    "": "It was refused",
    "first snapshot": "It was accepted, and later snapshots must match its schema",
    "no error": "It was accepted",
    "validate.accept": "It was accepted because validate.accept names it",
}


class ValidationSection:
    """The section; an attribute is empty if its content could not be read, which becomes a note of `validation`."""

    def __init__(self, validation: ArtifactReader) -> None:
        comparison: dict[str, Any] = {}
        if "comparison.json" in validation.names():
            comparison = validation.attempt("The comparison", lambda: dict(validation.json("comparison.json")), {})
        reader = validation if comparison else ArtifactReader("validation", None)  # without the comparison nothing is shown
        self.headline = reader.attempt("The snapshot", lambda: headline(comparison), "")
        self.accepted = not comparison or bool(comparison.get("why"))
        self.anomalies = reader.attempt("The anomalies", lambda: _anomalies(reader), ())
        self.distances = reader.attempt("The distances", lambda: distance_rows(comparison["measures"]), ())
        labels = reader.attempt("The labels", lambda: label_rows(comparison["labels"]), ())
        self.labels = labels[:SHOWN_LABELS]
        self.labels_left_out = len(labels) - len(self.labels)
        self.histograms = reader.attempt("The histograms", lambda: histograms(comparison), ())
        self.outliers = reader.attempt("The outliers", lambda: _outliers(reader), ())


def validation_page(dataset: Path, validation: Path) -> str:
    """Return a dataset artifact and its validation as one HTML document."""
    images, findings = open_finished("dataset", dataset), open_finished("validation", validation)
    section = ValidationSection(findings)
    return render_sections("Data and its validation", data=DataSection(images, findings), validation=section)


@contextlib.contextmanager
def open_refused(config: Mapping[str, Any], dataset: ArtifactReader) -> Iterator[ArtifactReader]:
    """Yield the validation of a refused dataset from its history, because the failed step wrote no artifact."""
    history = str(config.get("history", ""))
    with contextlib.ExitStack() as stack:
        reference = None
        if history and dataset.manifest:
            with contextlib.suppress(PipelineError):  # the page says which step failed; the history is only more detail
                folder = stack.enter_context(History(history).open_refused(dataset.manifest.digest))
                reference = ArtifactRef(path=str(folder), digest="") if folder else None
        yield ArtifactReader("validation", reference)


def headline(comparison: Mapping[str, Any]) -> str:
    """Return a sentence that names the snapshot, the one that it was compared with, and the outcome."""
    snapshot, against, why = (str(comparison[name]) for name in ("snapshot", "against", "why"))
    compared = f"compared with {against}, the last accepted snapshot" if against else "the first of its history"
    images = comparison["images"]
    before = f" (before: {number(images['before'])})" if images["before"] else ""
    counts = f"{number(images['now'])} images{before}, {number(comparison['blank']['now'])} near-blank"
    return f"Snapshot {snapshot}, {compared}: {counts}. {OUTCOMES.get(why, why)}."


def distance_rows(measures: list[Mapping[str, Any]]) -> tuple[tuple[str, str, str, str], ...]:
    """Return the distances as rows: feature, distance, the part that sampling explains, and the limit."""
    rows = []
    for measure in measures:
        limit = "—" if measure["most"] is None else f"{max(measure['noise'], measure['most']):.4f}"
        rows.append((_title(str(measure["feature"]))[0], f"{measure['value']:.4f}", f"{measure['noise']:.4f}", limit))
    return tuple(rows)


def label_rows(labels: Mapping[str, Any]) -> tuple[tuple[str, str, str, float, float], ...]:
    """Return each label with its share now and before; if there are many, those that changed most come first."""
    now, before = labels["now"], labels["before"] or {}
    names = list(dict.fromkeys([*before, *now]))
    if set(names) <= {"unlabelled"}:
        return ()
    shares = [(name, _share(now, name), _share(before, name)) for name in names]
    if len(shares) > SHOWN_LABELS:
        shares.sort(key=lambda row: -abs(row[1] - row[2]))
    longest = max(max(a, b) for _, a, b in shares) or 1.0
    return tuple(
        (name, percent(a, 1), percent(b, 1) if before else "—", 100 * a / longest, 100 * b / longest) for name, a, b in shares
    )


def _share(counts: Mapping[str, int], name: str) -> float:
    return counts.get(name, 0) / sum(counts.values()) if counts else 0.0


def histograms(comparison: Mapping[str, Any]) -> tuple[Chart, ...]:
    """Return a chart of every histogram now and before, with the distance between the two."""
    moved = {measure["feature"]: f"It moved by {measure['value']:.4f} bits." for measure in comparison["measures"]}
    return tuple(
        draw_histogram(*_title(name), content["bucket"], content["now"], content["before"], moved.get(name, ""))
        for name, content in comparison["histograms"].items()
    )


def _title(feature: str) -> tuple[str, str]:
    """Return the name of a feature, and what its histogram shows."""
    return TITLES.get(feature, (f"Grey levels, channel {feature.removeprefix('channel_')}", "Pixels by their grey level."))


def _anomalies(validation: ArtifactReader) -> tuple[tuple[str, str, str], ...]:
    anomalies = validation.json("anomalies.json")
    return tuple((str(anomaly["severity"]), str(anomaly["feature"]), str(anomaly["text"])) for anomaly in anomalies)


def _outliers(validation: ArtifactReader) -> tuple[Figure, ...]:
    ids = validation.json("worst.json")
    figures = []
    for kind, meaning in OUTLIERS.items():
        name = f"worst-{kind.replace(' ', '-')}.png"
        if name in validation.names():
            caption = f"{meaning} ({', '.join(map(str, ids[kind]))})."
            figures.append(validation.figure(name, f"The {len(ids[kind])} {kind} images", caption))
    return tuple(shown for shown in figures if shown)
