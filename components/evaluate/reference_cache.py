"""A cache in the work directory, by digest, of what the scores need from the real images."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import code_digest, digest_of
from components.common.errors import ArtifactError
from components.common.store import Store
from components.evaluate.config import EvaluateConfig
from components.evaluate.metrics import memorization, one_pass
from components.evaluate.metrics.bootstrap import both_weights
from components.evaluate.metrics.checks import Floats
from components.evaluate.metrics.fid import Statistics
from components.evaluate.metrics.one_pass import RealSide

FOLDER = "real_side"


class CachedReference(NamedTuple):
    """The real side of the pass, and the distance of each held-out image to its nearest training image [H]."""

    side: RealSide
    held_out_distances: Floats


def cached_reference(
    train: npt.NDArray[np.float32],
    held_out: npt.NDArray[np.float32],
    real_count: int,
    config: EvaluateConfig,
    work: Store | None = None,
) -> CachedReference:
    """Return what depends only on training [N, D] and held-out [H, D] features and the config.

    Samples are scored against the first `real_count` training images. Without a work directory nothing is cached.
    Raises ArtifactError for features that cannot be scored, or if the file cannot be written.
    """
    if work is None:
        return _compute(train, held_out, real_count, config)
    arrays = [hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest() for each in (train, held_out)]
    key = digest_of([arrays, list(train.shape), real_count, config.neighbours_k, config.seed, code_digest("evaluate")])
    name = f"{FOLDER}/{key[:24]}.npz"
    cached = _read(work, name)
    if cached is None:
        cached = _compute(train, held_out, real_count, config)
        stream = io.BytesIO()
        statistics, *rest = cached.side
        np.savez(stream, *statistics, *rest, cached.held_out_distances)
        work.write(name, [stream.getvalue()])
    return cached


def _compute(
    train: npt.NDArray[np.float32], held_out: npt.NDArray[np.float32], real_count: int, config: EvaluateConfig
) -> CachedReference:
    of_real, _ = both_weights(real_count, 2, config.seed)
    try:
        side = one_pass.real_side(train[:real_count], config.neighbours_k, of_real)
        return CachedReference(side, memorization.features_to_statistics(train, held_out))
    except ValueError as error:
        problem = f"Samples cannot be scored against the real images: {error}."
        raise ArtifactError(problem, "Use another evaluate.extractor.") from error


def _read(work: Store, name: str) -> CachedReference | None:
    try:
        with np.load(io.BytesIO(work.read(name)), allow_pickle=False) as arrays:
            mean, covariance, *rest, distances = (arrays[f"arr_{index}"] for index in range(len(arrays.files)))
        return CachedReference(RealSide(Statistics(mean, covariance), *rest), distances)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
