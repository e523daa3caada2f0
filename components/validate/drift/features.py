"""The distance of two snapshots in the features of an extractor, which can see differences that no histogram shows."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from scipy import stats

from components.common.errors import ArtifactError, UnreachableError, first_line
from components.common.store import Store
from components.common.stored_artifacts import newest_artifact, open_artifact
from components.dataset.records import decode_example, read_tfrecord
from components.evaluate.features import extractor
from components.evaluate.features.extractor_training import FOLDER
from components.validate.anomalies import Distance
from components.validate.findings import SAMPLE_FILE

PERMUTATIONS = 200
SEED = 0
Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]


def feature_distance(work: Store | None, before: Path, now: Path, size: int, channels: int, chance: float) -> Distance | None:
    """Return the distance of the samples in two folders; None if there is no intact extractor for images of this size.

    Raises ArtifactError when a sample is missing or damaged.
    """
    name = newest_extractor(work, size, channels) if work else ""
    if not work or not name:
        return None
    samples = [sample_images(side, size, channels) for side in (before, now)]
    try:
        with open_artifact(work, name, "extractor", verify=False) as folder:
            network = extractor.load(folder)  # imports TensorFlow, which a validation without an extractor does not need
    except UnreachableError:
        raise
    except ArtifactError:  # damaged
        return None
    a, b = (np.asarray(network.features(images), np.float64) for images in samples)
    value, noise = discrepancy(a, b, chance)
    text = (
        f"{len(b)} images differ from {len(a)} before in the features of the {network.settings.kind} extractor"
        f" {PurePosixPath(name).name}, by a squared maximum mean discrepancy of {value:.4f}"
    )
    return Distance("features", value, noise, None, text)


def newest_extractor(work: Store, size: int, channels: int) -> str:
    """Return the name of the newest extractor for images of this size, "" if there is none."""
    shape = {"image_size": size, "channels": channels}
    return newest_artifact(work, FOLDER, lambda manifest: shape.items() <= manifest.details.items())


def sample_images(folder: Path, size: int, channels: int) -> Images:
    """Return the images of a sample, uint8 [N, H, W, C]. Raises ArtifactError."""
    try:
        return np.stack([decode_example(data, size, channels).image for data in read_tfrecord(folder / SAMPLE_FILE)])
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"The sample in {folder} cannot be read: {first_line(error)}.",
            "Restore it from a backup, or name another validate.history.",
        ) from error


def discrepancy(before: Floats, now: Floats, chance: float) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy of two samples of features [N, D], and its noise.

    The kernel is KID's, (x·y/D + 1)³ (Bińkowski et al. 2018). The estimate includes all pairs and is never negative. The noise
    is the upper quantile of a gamma distribution with the mean and variance of PERMUTATIONS random divisions of both samples
    (Gretton et al. 2009, section 3.2).
    """
    both = np.concatenate([before, now])
    kernel = (both @ both.T / both.shape[1] + 1) ** 3
    signs = np.concatenate([np.full(len(before), -1 / len(before)), np.full(len(now), 1 / len(now))])
    rng = np.random.default_rng(SEED)
    divided = np.stack([rng.permutation(signs) for _ in range(PERMUTATIONS)])
    by_chance = np.einsum("pi,pi->p", divided @ kernel, divided)
    mean, variance = float(by_chance.mean()), float(by_chance.var(ddof=1))
    value = max(0.0, float(signs @ kernel @ signs))
    if mean <= 0.0 or variance <= 0.0:  # equal features: rounding errors alone
        return value, 0.0
    return value, float(stats.gamma.isf(chance, mean**2 / variance, scale=variance / mean))
