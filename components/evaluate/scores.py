"""All scores of a set of fake features against one reference, and what the reference is kept in."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import write_bytes
from components.common.errors import ArtifactError, ConfigError, DataRejectedError, first_line
from components.common.section import Summary
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor import Floats32
from components.evaluate.metrics import bootstrap, class_coverage, kid, memorization, one_pass
from components.evaluate.metrics.one_pass import RealSide
from components.evaluate.reference_cache import Kept, real_side_of

TRAIN_FILE = "train_features.npy"
HELD_OUT_FILE = "held_out_features.npy"
SAMPLE_FEATURES_FILE = "sample_features.npy"
MIN_TRAIN_IMAGES = 20  # two subsets of kid_subset_size's minimum
MIN_HELD_OUT_IMAGES = 10


class EvaluateSummary(Summary):
    """The scores of a generator. FID, KID: 0 is best. The others are shares; memorization of an honest one is 0.01.

    `kid_std` is the standard error of KID over the samples, the real images held fixed; `intervals` are 95 % bootstrap
    intervals of FID and KID over both. `floor` and `ceiling` are the scores of real images and of noise. docs/scores.md says
    how each is computed; a classifier's are None where the extractor is none.
    """

    fid: float
    kid: float
    kid_std: float
    precision: float
    recall: float
    density: float
    coverage: float
    memorization: float
    memorization_nearer: float | None = None
    memorization_p: float | None = None
    class_score: float | None = None
    classes_covered: int | None = None
    class_imbalance: float | None = None
    sharpness_ratio: float | None = None
    sharpness_distance: float | None = None
    colour_distance: float | None = None
    colour_furthest: str | None = None
    provenance: dict[str, Any]
    floor: dict[str, float] | None = None
    ceiling: dict[str, float] | None = None
    intervals: dict[str, tuple[float, float] | None] | None = None


class Reference(NamedTuple):
    """Features of all training and all held-out images, [N, D]; the first `real_count` of training are `real`."""

    train: Floats32
    held_out: Floats32
    real_count: int

    @property
    def real(self) -> Floats32:
        """What fake features are scored against, except for memorization, which looks at all training images."""
        return self.train[: self.real_count]

    def save(self, folder: Path) -> None:
        """Write the two arrays as .npy files. Raises ArtifactError."""
        for name, array in ((TRAIN_FILE, self.train), (HELD_OUT_FILE, self.held_out)):
            save_array(folder / name, array)


def save_array(file: Path, array: Floats32) -> None:
    """Write an array as a .npy file. Raises ArtifactError."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_bytes(file, stream.getvalue())


def load_reference(folder: Path, real_count: int) -> Reference:
    """Read what `Reference.save` wrote. Raises ArtifactError."""
    try:
        train, held_out = (np.load(folder / name, allow_pickle=False) for name in (TRAIN_FILE, HELD_OUT_FILE))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} holds no features: {first_line(error)}.", "Run evaluate again.") from error
    return Reference(train, held_out, real_count)


class Scored(NamedTuple):
    """The scores, and for each sample its nearest training image and the distance to it [M]."""

    summary: EvaluateSummary
    nearest: npt.NDArray[np.intp]
    nearest_distances: npt.NDArray[np.float64]


def score(
    reference: Reference,
    fake_features: Floats32,
    config: EvaluateConfig,
    provenance: dict[str, Any],
    bounds: Mapping[str, Any] | None = None,
) -> EvaluateSummary:
    """Return all scores of fake features [M, D] against the reference."""
    return score_and_pair(reference, fake_features, config, provenance, bounds or {}).summary


def score_and_pair(
    reference: Reference,
    fake_features: Floats32,
    config: EvaluateConfig,
    provenance: dict[str, Any],
    others: Mapping[str, Any],
    kept: Kept | None = None,
) -> Scored:
    """Return all scores of fake features [M, D] against the reference, and what training image each lies nearest to.

    `others` are scores that need more than features; `kept` is what `real_side_of` returned for the same reference. Raises
    ArtifactError for features that cannot be scored.
    """
    try:
        kept = kept or real_side_of(*reference, config)
        of_real, of_fake = bootstrap.both_weights(reference.real_count, len(fake_features), config.seed)
        left_out = kid.rows_left_out(
            len(fake_features), subsets=config.kid_subsets, subset_size=config.kid_subset_size, seed=config.seed
        )
        alone = np.zeros((len(left_out), len(fake_features)))
        for row, subset in zip(alone, left_out, strict=True):
            row[subset] = 1.0
        pairs = one_pass.compare(
            reference.real, fake_features, config.neighbours_k, kept.side, (of_real, of_fake), of_fake_alone=alone
        )
        nearest, distances = _over_all_training_images(reference, fake_features, pairs)
        fid_interval = bootstrap.fid_interval(reference.real, fake_features, config.seed)
    except ValueError as error:
        raise ArtifactError(f"The samples cannot be scored: {error}.", "Look at the extractor and at the samples.") from error
    found = memorization.statistics_to_metric(kept.held_out_distances, distances)
    drawn = (kept.side.drawn, pairs.fake_drawn[: len(of_fake)], pairs.mixed_drawn)
    summary = EvaluateSummary(
        fid=pairs.fid,
        kid=kid.statistics_to_metric(pairs.sums),
        kid_std=kid.standard_error(pairs.sums, left_out, pairs.fake_drawn[len(of_fake) :].tolist()),
        **pairs.shares._asdict(),
        memorization=found.share,
        memorization_nearer=found.nearer,
        memorization_p=found.p_value,
        provenance=provenance,
        intervals={"fid": fid_interval, "kid": bootstrap.interval_of_sums(*drawn, of_real, of_fake)},
        **others,
    )
    return Scored(summary, nearest, distances)


def _over_all_training_images(
    reference: Reference, fake_features: Floats32, pairs: one_pass.Pairs
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    # The pass has looked at the real images alone; memorization is of any training image.
    rest = reference.train[reference.real_count :]
    if not len(rest):
        return pairs.nearest, pairs.nearest_distances
    nearest, distances = one_pass.nearest_of(fake_features, rest)
    nearer = distances < pairs.nearest_distances
    who = np.where(nearer, nearest + reference.real_count, pairs.nearest)
    return who, np.where(nearer, distances, pairs.nearest_distances)


def measure(real_features: Floats32, fake_features: Floats32, k: int, side: RealSide | None = None) -> dict[str, float]:
    """Return the scores that have a floor and a ceiling: FID, KID, precision, recall, density and coverage."""
    pairs = one_pass.compare(real_features, fake_features, k, side)
    return {"fid": pairs.fid, "kid": kid.statistics_to_metric(pairs.sums), **pairs.shares._asdict()}


def check_counts(config: EvaluateConfig, train_images: int, held_out_images: int) -> None:
    """Refuse sets too small to be scored. Raises DataRejectedError and ConfigError, with the number to use."""
    if train_images < MIN_TRAIN_IMAGES:
        raise DataRejectedError(
            f"The dataset has {train_images} training images; the scores need at least {MIN_TRAIN_IMAGES}.",
            "Ingest more images.",
        )
    if held_out_images < MIN_HELD_OUT_IMAGES:
        raise DataRejectedError(
            f"The dataset has {held_out_images} held-out images; memorization needs at least {MIN_HELD_OUT_IMAGES}.",
            "Raise ingest.eval_fraction or ingest more images.",
        )
    real = min(train_images, config.real_images)
    smaller = min(real, config.samples)
    if config.neighbours_k >= smaller:
        raise ConfigError(
            f"evaluate.neighbours_k = {config.neighbours_k} needs more images of each kind than that; there are {real} "
            f"real images and {config.samples} samples.",
            f"Use evaluate.neighbours_k = {smaller - 1} or less.",
        )


def modes(real_classes: npt.NDArray[np.int64], fake_classes: npt.NDArray[np.int64], label_names: list[str]) -> dict[str, Any]:
    """Return which classes the samples reach: `covered` `of` how many, and the share of samples in each (class_coverage).

    Classes [N] are labels of real images and what the classifier sees in samples.
    """
    found = class_coverage.compute(real_classes, fake_classes)
    shares = {int(index): float((fake_classes == index).mean()) for index in np.unique(real_classes)}
    names = {index: label_names[index] if index < len(label_names) else str(index) for index in shares}
    return {"covered": found.covered, "of": found.of, "shares": {names[index]: shares[index] for index in shares}}
