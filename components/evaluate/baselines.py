"""Baselines of the scores: the same scores of held-out real images (the floor) and of useless ones (noise is the ceiling)."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from components.common.artifacts import code_digest, digest_of, json_bytes
from components.common.progress import say
from components.common.store import Store
from components.evaluate import useless
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor import AnyExtractor, Images
from components.evaluate.metrics.one_pass import RealSide
from components.evaluate.scores import Baselines, Reference, measure_features

FOLDER = "baselines"
MOST_IMAGES = 2000  # of a useless set, and training images that it is made from
MOST_BYTES = 2**28  # of the same


def measure_baselines(
    config: EvaluateConfig,
    reference: Reference,
    images: Images,
    extractor: AnyExtractor,
    data_digest: str,
    work: Store,
    side: RealSide | None = None,
) -> Baselines:
    """Return `floor`, `ceiling` and `useless`: FID, KID, precision, recall, density and coverage.

    The floor scores held-out images against the same training images as samples; it is None if there are not enough for
    neighbours_k. FID and coverage get worse with fewer images, so the number of images is included. `useless` scores each set
    of useless.SETS, made from the first training images; the ceiling is its uniform noise. `side` is the result of
    `one_pass.real_side` for the reference. Cached in `work` by digest. Raises ArtifactError.
    """
    settings = config.model_dump(mode="json", exclude={"neighbour_rows", "kid_subsets", "kid_subset_size"})
    key = digest_of([data_digest, extractor.digest, settings, code_digest("evaluate")])
    name = f"{FOLDER}/{key[:24]}.json"
    cached = _read(work, name)
    if cached is None:
        say("scoring real images and useless ones for comparison")
        cached = _measure(config, reference, images, extractor, side)
        work.write(name, [json_bytes(cached)])
    return cached


def _measure(
    config: EvaluateConfig, reference: Reference, images: Images, extractor: AnyExtractor, side: RealSide | None
) -> Baselines:
    held_out, k = reference.held_out[: config.samples], config.neighbours_k
    count = max(k + 1, min(config.samples, MOST_IMAGES, MOST_BYTES // math.prod(images.shape[1:])))
    sample, found = images[:count], {}
    for name in useless.SETS:
        made = useless.make(name, sample, count, np.random.default_rng(config.seed))
        features = extractor.features(made, may_be_equal=True)
        found[name] = measure_features(reference.real, features, k, side) | {"images": count}
    floor = measure_features(reference.real, held_out, k, side) | {"images": len(held_out)} if len(held_out) > k else None
    return {"floor": floor, "ceiling": found["noise"], "useless": found}


def _read(work: Store, name: str) -> Baselines | None:
    try:
        cached: Any = json.loads(work.read(name))
    except (OSError, ValueError):
        return None
    return dict(cached) if isinstance(cached, dict) and set(cached) == {"floor", "ceiling", "useless"} else None
