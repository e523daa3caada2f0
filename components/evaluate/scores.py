"""All scores of a set of fake features against one reference, and what the reference is kept in."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.artifacts import write_bytes
from components.errors import ArtifactError, ConfigError, DataRejectedError
from components.evaluate import bootstrap, fid, kid, memorization, prdc
from components.evaluate.config import EvaluateConfig
from components.evaluate.extractor import Floats32
from components.section import Summary

TRAIN_FILE = "train_features.npy"
HELD_OUT_FILE = "held_out_features.npy"
SAMPLE_FEATURES_FILE = "sample_features.npy"
MIN_TRAIN_IMAGES = 20  # two subsets of kid_subset_size's minimum
MIN_HELD_OUT_IMAGES = 10


class EvaluateSummary(Summary):
    """The scores of a generator. FID, KID: 0 is best. The others are shares; memorization of an honest one is 0.01.

    `kid_std` is the standard error of KID over the samples, the real images held fixed; `intervals` are 95 % bootstrap
    intervals of FID and KID over both. `floor` and `ceiling` are the scores of real images and of noise.
    """

    fid: float
    kid: float
    kid_std: float
    precision: float
    recall: float
    density: float
    coverage: float
    memorization: float
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
        first_line = str(error).splitlines()[0].rstrip(".")
        raise ArtifactError(f"{folder} holds no features: {first_line}.", "Run evaluate again.") from error
    return Reference(train, held_out, real_count)


def score(
    reference: Reference,
    fake_features: Floats32,
    config: EvaluateConfig,
    provenance: dict[str, Any],
    bounds: Mapping[str, Any] | None = None,
) -> EvaluateSummary:
    """Return all scores of fake features [M, D] against the reference."""
    real = reference.real
    shares = prdc.compute(real, fake_features, config.neighbours_k)
    sums = kid.features_to_statistics(real, fake_features)
    return EvaluateSummary(
        fid=fid.compute(real, fake_features),
        kid=kid.statistics_to_metric(sums),
        kid_std=kid.statistics_to_standard_error(
            sums, fake_features, subsets=config.kid_subsets, subset_size=config.kid_subset_size, seed=config.seed
        ),
        **shares._asdict(),
        memorization=memorization.compute(reference.train, reference.held_out, fake_features),
        provenance=provenance,
        intervals={
            "fid": bootstrap.fid_interval(real, fake_features, config.seed),
            "kid": bootstrap.kid_interval(real, fake_features, config.seed),
        },
        **(bounds or {}),
    )


def measure(real_features: Floats32, fake_features: Floats32, k: int) -> dict[str, float]:
    """Return the scores that have a floor and a ceiling: FID, KID, precision, recall, density and coverage."""
    shares = prdc.compute(real_features, fake_features, k)._asdict()
    return {"fid": fid.compute(real_features, fake_features), "kid": kid.compute(real_features, fake_features), **shares}


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
    """Return which classes the samples reach: `covered` `of` how many, and the share of samples in each.

    Classes [N] are labels of real images and what the classifier sees in samples. A class is covered when its share of
    the samples is at least a tenth of its share of the real images.
    """
    classes = np.unique(real_classes)
    shares = {int(index): float((fake_classes == index).mean()) for index in classes}
    covered = sum(shares[int(index)] >= 0.1 * float((real_classes == index).mean()) for index in classes)
    names = {index: label_names[index] if index < len(label_names) else str(index) for index in shares}
    return {"covered": covered, "of": len(classes), "shares": {names[index]: shares[index] for index in shares}}
