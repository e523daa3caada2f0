"""METRICS: one row per metric. Report, scale, model card, summary, Vertex evaluation, comparison and docs/scores.md read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.evaluate.metrics import classes, colours, kid, memorization, sharpness
from components.evaluate.metrics.inputs import Inputs
from components.evaluate.metrics.metric import Metric, Page

EVERYWHERE: frozenset[Page] = frozenset({"report", "scale", "card", "vertex", "console"})


def measure_kid(inputs: Inputs) -> dict[str, float]:
    """Return `kid`, and its standard error if it is known."""
    error = {} if inputs.kid_error is None else {"kid_std": inputs.kid_error}
    return {"kid": kid.statistics_to_metric(inputs.pairs.sums), **error}


METRICS: tuple[Metric, ...] = (
    Metric(
        name="fid",
        title="FID",
        better="lower",
        best=0.0,
        range="0 and up",
        reading="lower is better",
        meaning="Fréchet distance between Gaussians fitted to the features of samples and of real images.",
        source="Heusel et al. 2017",
        shown=EVERYWHERE,
        measure=lambda inputs: {"fid": inputs.pairs.fid},
    ),
    Metric(
        name="kid",
        title="KID",
        better="lower",
        best=0.0,
        range="about 0 and up; slightly below 0 by chance",
        reading="lower is better",
        meaning="Squared MMD of the same features with the kernel (x·y / D + 1)³, unbiased: 0 for equal distributions.",
        source="Bińkowski et al. 2018",
        shown=EVERYWHERE,
        measure=measure_kid,
        gate=True,
        error="kid_std",
        decimals=4,
    ),
    Metric(
        name="precision",
        title="Precision",
        better="higher",
        best=1.0,
        range="0 to 1",
        reading="1 is best",
        meaning="Share of samples that lie in the neighbourhood of a real image: do they look real?",
        source="Kynkäänniemi et al. 2019",
        shown=EVERYWHERE - {"console"},
        measure=lambda inputs: {"precision": inputs.pairs.shares.precision},
        gate=True,
    ),
    Metric(
        name="recall",
        title="Recall",
        better="higher",
        best=1.0,
        range="0 to 1",
        reading="1 is best",
        meaning="Share of real images that lie in the neighbourhood of a sample: is all variety covered?",
        source="Kynkäänniemi et al. 2019",
        shown=EVERYWHERE - {"console"},
        measure=lambda inputs: {"recall": inputs.pairs.shares.recall},
        gate=True,
    ),
    Metric(
        name="density",
        title="Density",
        better="target",
        range="0 and up",
        reading="1 or more",
        meaning="Mean number of real neighbourhoods that a sample lies in, divided by k; above 1, samples crowd together.",
        source="Naeem et al. 2020",
        shown=EVERYWHERE - {"console"},
        measure=lambda inputs: {"density": inputs.pairs.shares.density},
    ),
    Metric(
        name="coverage",
        title="Coverage",
        better="higher",
        best=1.0,
        range="0 to 1",
        reading="1 is best",
        meaning="Share of real images that have a sample in their neighbourhood.",
        source="Naeem et al. 2020",
        shown=EVERYWHERE,
        measure=lambda inputs: {"coverage": inputs.pairs.shares.coverage},
        gate=True,
    ),
    Metric(
        name="memorization",
        title="Memorization",
        better="target",
        range="0 to 1",
        reading="about 0.01 without copying",
        meaning="Share of samples that are closer to a training image than 99 % of held-out images are.",
        shown=EVERYWHERE - {"scale", "console"},
        measure=memorization.measure_share,
        gate=True,
    ),
    Metric(
        name="memorization_nearer",
        title="Nearer than held-out",
        better="target",
        range="0 to 1",
        reading="about 0.5 without copying, above 0.9 copied",
        meaning="How often a sample is closer to the training images than a held-out image is (Mann-Whitney).",
        source="Meehan et al. 2020",
        shown=frozenset({"report", "card"}),
        measure=memorization.measure_nearer,
        gate=True,
        p_value="memorization_p",
    ),
    Metric(
        name="class_score",
        title="Class score",
        better="higher",
        range="1 to the number of classes",
        reading="higher is better",
        meaning="Number of classes that the classifier clearly recognizes in samples (Inception Score with this classifier).",
        source="Salimans et al. 2016",
        shown=frozenset({"report", "card"}),
        measure=classes.measure_score,
    ),
    Metric(
        name="classes_covered",
        title="Classes reached",
        better="higher",
        range="0 to the number of classes",
        reading="all classes is best",
        meaning="Number of classes whose share of the samples is at least a tenth of their share of the real images.",
        source="Srivastava et al. 2017",
        shown=frozenset({"report"}),
        measure=classes.measure_covered,
        decimals=0,
    ),
    Metric(
        name="class_imbalance",
        title="Class imbalance",
        better="lower",
        best=0.0,
        range="0 to 1",
        reading="0 is best",
        meaning="Share of samples that should have another class, so that class shares would equal those of real images.",
        shown=frozenset({"report"}),
        measure=classes.measure_imbalance,
    ),
    Metric(
        name="sharpness_ratio",
        title="Sharpness",
        better="target",
        best=1.0,
        range="0 and up",
        reading="1 is best",
        meaning="Variance of the Laplacian divided by that of real images; below 1, samples are blurred.",
        source="Pech-Pacheco et al. 2000",
        shown=frozenset({"report", "card"}),
        measure=sharpness.measure,
    ),
    Metric(
        name="colour_distance",
        title="Colours",
        better="lower",
        best=0.0,
        range="0 and up",
        reading="0 is best",
        meaning="Largest distance of brightness, contrast or saturation from real images, in their standard deviations.",
        shown=frozenset({"report", "card"}),
        measure=colours.measure,
    ),
)


def measure_all(inputs: Inputs) -> dict[str, float]:
    """Return the values of all metrics that can be measured, with standard errors and p-values, by key."""
    return {key: value for metric in METRICS for key, value in metric.measure(inputs).items()}


def finite_values(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the values, standard errors and p-values of METRICS in `scores` by key, without those that are not finite."""
    keys = [key for metric in METRICS for key in (metric.name, metric.error, metric.p_value)]
    values = {key: scores[key] for key in keys if scores.get(key) is not None}
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


def metrics_on(page: Page) -> tuple[Metric, ...]:
    """Return the metrics that a page shows, in the order of METRICS."""
    return tuple(metric for metric in METRICS if page in metric.shown)


def as_markdown() -> str:
    """Return the table of docs/scores.md; `python -m components.evaluate.metrics.table` prints it."""
    rows = [
        f"| `{metric.name}` | {metric.title} | {metric.range} | {metric.reading} | {metric.meaning} | {metric.source} |"
        for metric in METRICS
    ]
    return "\n".join(["| Key | Title | Range | How to read it | What it is | Source |", "|---|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(as_markdown())
