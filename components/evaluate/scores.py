"""All scores of samples against a reference, and the files of the reference."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from components.common.artifacts import write_bytes
from components.common.errors import ArtifactError, ConfigError, DataRejectedError, first_line
from components.common.section import Summary
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor import Floats32
from components.evaluate.metrics import bootstrap, classes, kid, one_pass, table
from components.evaluate.metrics.checks import Floats
from components.evaluate.metrics.inputs import Images, Inputs
from components.evaluate.metrics.one_pass import RealSide
from components.evaluate.metrics.tiles import nearest_images
from components.evaluate.real_statistics import RealStatistics
from components.evaluate.reference_cache import CachedReference, cached_reference

Baselines = dict[str, Any]  # floor, ceiling and useless, as in EvaluateSummary

TRAIN_FILE = "train_features.npy"
HELD_OUT_FILE = "held_out_features.npy"
SAMPLE_FEATURES_FILE = "sample_features.npy"
MIN_TRAIN_IMAGES = 20  # two subsets of the smallest kid_subset_size
MIN_HELD_OUT_IMAGES = 10


class EvaluateSummary(Summary):
    """The scores of a generator: a key for each metric of METRICS that could be measured, and their provenance.

    `intervals` are 95 % bootstrap intervals of FID and KID over real images and samples. `floor` and `ceiling` are the scores
    of held-out real images and of noise, `useless` those of all sets of useless images by name. See docs/scores.md.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)
    provenance: dict[str, Any]
    floor: dict[str, float] | None = None
    ceiling: dict[str, float] | None = None
    useless: dict[str, dict[str, float]] | None = None
    intervals: dict[str, tuple[float, float] | None] | None = None

    @property
    def scores(self) -> dict[str, float]:
        """The values of the metrics, their standard errors and p-values, by key."""
        return dict(self.__pydantic_extra__)


class Reference(NamedTuple):
    """Features [N, D] of all training and all held-out images; samples are scored against the first `real_count`."""

    train: Floats32
    held_out: Floats32
    real_count: int

    @property
    def real(self) -> Floats32:
        """The features that samples are scored against, except for memorization, which uses all training images."""
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
        raise ArtifactError(f"The features in {folder} cannot be read: {first_line(error)}.", "Run evaluate again.") from error
    return Reference(train, held_out, real_count)


class Measurement(NamedTuple):
    """The scores, and the nearest training image of each sample with its distance [M]."""

    summary: EvaluateSummary
    nearest: npt.NDArray[np.intp]
    nearest_distances: npt.NDArray[np.float64]


class Samples(NamedTuple):
    """Features of samples [M, D]; their images uint8 [M, H, W, C] and class probabilities [M, K], if they are known."""

    features: Floats32
    images: Images | None = None
    probabilities: Floats | None = None


def measure(
    reference: Reference,
    samples: Samples,
    config: EvaluateConfig,
    provenance: dict[str, Any],
    *,
    real: RealStatistics | None = None,
    baselines: Baselines | None = None,
    cached: CachedReference | None = None,
) -> Measurement:
    """Return all scores of samples against the reference, and the nearest training image of each sample.

    `real` are statistics of the real images for metrics of pixels and classes, `baselines` the scores of real images and
    noise. `cached` is the result of `cached_reference` for the same reference. Raises ArtifactError for features that cannot be
    scored.
    """
    fake = samples.features
    try:
        cached = cached or cached_reference(*reference, config)
        of_real, of_fake = bootstrap.both_weights(reference.real_count, len(fake), config.seed)
        left_out = kid.rows_left_out(
            len(fake), subsets=config.kid_subsets, subset_size=config.kid_subset_size, seed=config.seed
        )
        pairs = one_pass.compare(
            reference.real,
            fake,
            config.neighbours_k,
            cached.side,
            (of_real, of_fake),
            of_fake_alone=kid.indicators(left_out, len(fake)),
        )
        nearest, distances = _over_all_training_images(reference, fake, pairs)
        fid_interval = bootstrap.fid_interval(reference.real, fake, config.seed)
    except ValueError as error:
        raise ArtifactError(f"The samples cannot be scored: {error}.", "Check the extractor and the samples.") from error
    fake_drawn, pairs_left_out = pairs.fake_drawn[: len(of_fake)], pairs.fake_drawn[len(of_fake) :]
    inputs = Inputs(
        real=reference.real,
        fake=fake,
        pairs=pairs,
        kid_error=kid.standard_error(pairs.sums, left_out, pairs_left_out.tolist()),
        held_out_distances=cached.held_out_distances,
        fake_distances=distances,
        samples=samples.images,
        real_sharpness=real.sharpness if real else None,
        real_colours=real.colours if real else None,
        real_class_shares=real.classes if real and len(real.classes) else None,
        probabilities=samples.probabilities,
    )
    kid_interval = bootstrap.interval_of_sums(cached.side.drawn, fake_drawn, pairs.mixed_drawn, of_real, of_fake)
    summary = EvaluateSummary(
        provenance=provenance,
        intervals={"fid": fid_interval, "kid": kid_interval},
        **(baselines or {}),
        **table.measure_all(inputs),
    )
    return Measurement(summary, nearest, distances)


def measure_features(
    real_features: Floats32, fake_features: Floats32, k: int, side: RealSide | None = None
) -> dict[str, float]:
    """Return the metrics that need only features [N, D] and [M, D]: FID, KID, precision, recall, density, coverage."""
    pairs = one_pass.compare(real_features, fake_features, k, side)
    return table.measure_all(Inputs(real=real_features, fake=fake_features, pairs=pairs))


def _over_all_training_images(
    reference: Reference, fake_features: Floats32, pairs: one_pass.Pairs
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    # The pass compares samples with the first real_count training images only; memorization considers all of them.
    rest = reference.train[reference.real_count :]
    if not len(rest):
        return pairs.nearest, pairs.nearest_distances
    nearest, distances = (array[:, 0] for array in nearest_images(fake_features, rest))
    nearer = distances < pairs.nearest_distances
    indices = np.where(nearer, nearest + reference.real_count, pairs.nearest)
    return indices, np.where(nearer, distances, pairs.nearest_distances)


def check_counts(config: EvaluateConfig, train_images: int, held_out_images: int) -> None:
    """Raise DataRejectedError if the sets are too small to be scored, ConfigError if neighbours_k is too large for them."""
    if train_images < MIN_TRAIN_IMAGES:
        raise DataRejectedError(
            f"The dataset has {train_images} training images; scores need at least {MIN_TRAIN_IMAGES}.",
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
            f"evaluate.neighbours_k = {config.neighbours_k} must be smaller than the number of images of each kind; there are "
            f"{real} real images and {config.samples} samples.",
            f"Use evaluate.neighbours_k = {smaller - 1} or less.",
        )


def modes(real_classes: npt.NDArray[np.int64], fake_classes: npt.NDArray[np.int64], label_names: list[str]) -> dict[str, Any]:
    """Return how many classes the samples cover (`covered` `of` all) and the share of samples in each; see metrics/classes.py.

    `real_classes` [N] are labels of real images, `fake_classes` [M] those that the classifier predicts for samples.
    """
    count = 1 + int(max(real_classes.max(initial=0), fake_classes.max(initial=0)))
    fake_shares = classes.class_shares(fake_classes, count)
    coverage = classes.coverage(classes.class_shares(real_classes, count), fake_shares)
    names = [*label_names, *map(str, range(len(label_names), count))]
    shares = {names[index]: float(fake_shares[index]) for index in np.unique(real_classes)}
    return {"covered": coverage.covered, "of": coverage.of, "shares": shares}
