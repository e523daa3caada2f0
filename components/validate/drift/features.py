"""How far two snapshots differ in the features of an extractor that an evaluation has made: what histograms cannot see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.common.errors import ArtifactError
from components.dataset.records import decode_example, read_tfrecord, read_tfrecord_part, write_tfrecord
from components.evaluate.features import extractor
from components.validate.drift.drift import Measure, chi_squared_quantile
from components.validate.statistics.tally import Tally

SAMPLE_FILE = "sample.tfrecord"
PERMUTATIONS = 200
SEED = 0
Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]


def write_sample(folder: Path, dataset: Path, tally: Tally) -> None:
    """Keep the records of the sample, in the order of their digests, for a later snapshot to be compared with."""
    records = (next(read_tfrecord_part(dataset / file, byte, 1)) for _, file, byte in tally.sample)
    write_tfrecord(folder / SAMPLE_FILE, records)


def feature_distance(work_dir: Path | None, before: Path, now: Path, size: int, channels: int, chance: float) -> Measure | None:
    """Return the distance of the samples kept in two folders; None where no extractor knows images of this size.

    Raises ArtifactError where a sample is missing or damaged.
    """
    found = newest_extractor(work_dir, size, channels) if work_dir else None
    if found is None:
        return None
    images = [sample_images(folder, size, channels) for folder in (before, now)]
    network = extractor.load(found)
    # TensorFlow is imported here and not before: most validations have nothing to compare.
    a, b = (np.asarray(network.features(part), np.float64) for part in images)
    value, noise = discrepancy(a, b, chance)
    text = (
        f"{len(b)} images differ from {len(a)} before in the features of the {network.settings.kind} extractor"
        f" {found.name}, by a squared maximum mean discrepancy of {value:.4f}"
    )
    return Measure("features", "CUSTOM_VALIDATION", value, noise, 0.0, np.inf, text)


def newest_extractor(work_dir: Path, size: int, channels: int) -> Path | None:
    """Return the folder of the last extractor for images of this size, or None; one that is damaged is left alone."""
    found = []
    for file in (work_dir / "extractors").glob(f"*/{extractor.SETTINGS_FILE}"):
        try:
            settings = extractor.Settings.model_validate_json(file.read_bytes())
        except (OSError, ValueError):
            continue  # evaluate makes it again
        if (settings.image_size, settings.channels) == (size, channels):
            found.append((file.stat().st_mtime_ns, file.parent))
    return max(found)[1] if found else None


def sample_images(folder: Path, size: int, channels: int) -> Images:
    """Return the images of a sample, uint8 [N, H, W, C]. Raises ArtifactError."""
    try:
        return np.stack([decode_example(data, size, channels).image for data in read_tfrecord(folder / SAMPLE_FILE)])
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"The sample in {folder} cannot be read: {error}.", "Restore it from a backup, or name another validate.history."
        ) from error


def discrepancy(before: Floats, now: Floats, chance: float) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy of two samples of features [N, D], and its noise.

    The kernel is KID's, (x·y/D + 1)³ (Bińkowski et al. 2018); every pair counts, so it is never negative. The noise is the
    upper quantile of a gamma distribution with the mean and variance of PERMUTATIONS random divisions of both samples (Gretton
    et al. 2009, section 3.2).
    """
    both = np.concatenate([before, now])
    kernel = (both @ both.T / both.shape[1] + 1) ** 3
    signs = np.concatenate([np.full(len(before), -1 / len(before)), np.full(len(now), 1 / len(now))])
    rng = np.random.default_rng(SEED)
    divided = np.stack([rng.permutation(signs) for _ in range(PERMUTATIONS)])
    by_chance = np.einsum("pi,pi->p", divided @ kernel, divided)
    mean, variance = float(by_chance.mean()), float(by_chance.var(ddof=1))
    value = float(signs @ kernel @ signs)
    if variance <= 0.0:
        return max(0.0, value), mean
    freedom = 2 * mean**2 / variance
    return max(0.0, value), variance / (2 * mean) * chi_squared_quantile(freedom, 1 - chance)
