"""What validate found: the snapshot beside the last accepted one, anomalies in words, histograms, the worst images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.artifacts import read_manifest
from components.common.journal import ArtifactRef
from components.report.artifact_reader import READ_ERRORS, Opened
from components.report.formatting import number, percent
from components.report.plots.figures import Figure, figure
from components.report.plots.histograms import Histogram, draw_histogram

SHOWN_LABELS = 30
TITLES = {
    "brightness": ("Brightness of images", "Images by the mean of their grey levels."),
    "contrast": ("Contrast of images", "Images by how much their grey levels deviate from their mean."),
}
WORST = {
    "blankest": "Blankest, that of least contrast first",
    "darkest": "Darkest",
    "brightest": "Brightest",
    "most unlike": "Most unlike the others, of which few have their brightness and contrast",
}


@dataclass(frozen=True)
class Validation:
    """The page on the data's validation; all is empty where validate left nothing."""

    headline: str = ""
    accepted: bool = True
    anomalies: tuple[tuple[str, str, str], ...] = ()  # severity, feature, what it is
    measures: tuple[tuple[str, str, str, str], ...] = ()  # feature, distance, noise, limits
    labels: tuple[tuple[str, str, str, float, float], ...] = ()  # name, share now, before, lengths of both bars in percent
    labels_left_out: int = 0
    histograms: tuple[Histogram, ...] = ()
    worst: tuple[Figure, ...] = ()


def open_refused(config: Mapping[str, Any], dataset: Opened) -> Opened:
    """Return what validate kept of a dataset that it refused: it lies in its history, since the step made no artifact."""
    place = str(config.get("history", ""))
    digest = dataset.manifest.digest if dataset.manifest else ""
    for folder in sorted(Path(place).glob("refused/*")) if place and digest else []:
        try:
            manifest = read_manifest(folder, "validation", verify=False)
        except READ_ERRORS:
            continue  # of another dataset, or half removed: then there is nothing to show
        if manifest.inputs.get("dataset") == digest:
            return Opened("validation", "validation", ArtifactRef(path=str(folder), digest=manifest.digest))
    return Opened("validation", "validation", None)


def describe_validation(validation: Opened) -> Validation:
    """Return the page of a validation; what cannot be read becomes a note of `validation`."""
    if "comparison.json" not in validation.names():
        return Validation()
    comparison = validation.attempt("The comparison", lambda: json.loads(validation.content("comparison.json")))
    if comparison is None:
        return Validation()
    labels = validation.attempt("The labels", lambda: label_rows(comparison["labels"])) or ()
    return Validation(
        headline=validation.attempt("The snapshot", lambda: headline(comparison)) or "",
        accepted=bool(comparison.get("why")),
        anomalies=validation.attempt("The anomalies", lambda: _anomalies(validation)) or (),
        measures=validation.attempt("The distances", lambda: measure_rows(comparison["measures"])) or (),
        labels=labels[:SHOWN_LABELS],
        labels_left_out=max(0, len(labels) - SHOWN_LABELS),
        histograms=validation.attempt("The histograms", lambda: histograms(comparison)) or (),
        worst=validation.attempt("The worst images", lambda: _worst(validation)) or (),
    )


def headline(comparison: Mapping[str, Any]) -> str:
    """Return in a sentence which snapshot this is, what it was compared with, and what came of it."""
    snapshot, against, why = (str(comparison[name]) for name in ("snapshot", "against", "why"))
    beside = f"compared with {against}, the last that had been accepted" if against else "the first of its history"
    outcome = {
        "": "It was refused",
        "first snapshot": "It was accepted, and its schema is held from now on",
        "no error": "It was accepted",
        "validate.accept": "It was accepted knowingly, by validate.accept",
    }.get(why, why)
    images = comparison["images"]
    before = f" (before: {number(images['before'])})" if images["before"] else ""
    blank = f"{number(comparison['blank']['now'])} near-blank"
    return f"Snapshot {snapshot}, {beside}: {number(images['now'])} images{before}, {blank}. {outcome}."


def measure_rows(measures: list[Mapping[str, Any]]) -> tuple[tuple[str, str, str, str], ...]:
    """Return the distances as rows: feature, distance, what sampling explains, and from where on it is an error."""
    names = {"label_name": "label shares", "image": "near-blank share", "features": "features of an extractor"}
    rows = []
    for found in measures:
        name = names.get(found["feature"]) or _title(str(found["feature"]))[0]
        limit = "—" if found["most"] is None else f"{max(found['noise'], found['most']):.4f}"
        rows.append((name, f"{found['value']:.4f}", f"{found['noise']:.4f}", limit))
    return tuple(rows)


def label_rows(labels: Mapping[str, Any]) -> tuple[tuple[str, str, str, float, float], ...]:
    """Return each label with its share now and before; of many, those that changed most come first."""
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


def histograms(comparison: Mapping[str, Any]) -> tuple[Histogram, ...]:
    """Return every histogram, now and before on one axis, with how far it moved."""
    moved = {found["feature"]: f"It moved by {found['value']:.4f} bits." for found in comparison["measures"]}
    drawn = []
    for name, content in comparison["histograms"].items():
        title, meaning = _title(name)
        said = moved.get(name, "")
        drawn.append(draw_histogram(title, meaning, content["bucket"], content["now"], content["before"], said))
    return tuple(drawn)


def _title(name: str) -> tuple[str, str]:
    return TITLES.get(name) or (f"Grey levels, channel {name.removeprefix('channel_')}", "Pixels by their grey level.")


def _anomalies(validation: Opened) -> tuple[tuple[str, str, str], ...]:
    found = json.loads(validation.content("anomalies.json"))
    return tuple((str(item["severity"]), str(item["feature"]), str(item["text"])) for item in found)


def _worst(validation: Opened) -> tuple[Figure, ...]:
    ids = json.loads(validation.content("worst.json"))
    figures = []
    for kind, meaning in WORST.items():
        name = f"worst-{kind.replace(' ', '-')}.png"
        if name in validation.names():
            listed = ", ".join(str(id) for id in ids[kind])
            caption = f"{meaning}: {listed}."
            figures.append(figure(validation.content(name), f"The {len(ids[kind])} {kind} images", caption))
    return tuple(figures)
