"""Baselines of the scores: the same scores of held-out real images (the floor) and of noise (the ceiling)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from components.common.artifacts import code_digest, digest_of, json_bytes
from components.common.progress import say
from components.common.store import Store
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor import AnyExtractor
from components.evaluate.metrics.one_pass import RealSide
from components.evaluate.scores import Baselines, Reference, measure_features

FOLDER = "baselines"
MOST_NOISE_IMAGES = 10_000  # they are in memory


def floor_and_ceiling(
    config: EvaluateConfig,
    reference: Reference,
    extractor: AnyExtractor,
    data_digest: str,
    work: Store,
    side: RealSide | None = None,
) -> Baselines:
    """Return `floor` and `ceiling`, each with FID, KID, precision, recall, density, coverage and the number of images.

    The floor scores held-out images against the same training images as samples; it is None if there are not enough for
    neighbours_k. FID and coverage get worse with fewer images, so the number of images is included. The ceiling scores uniform
    noise. `side` is the result of `one_pass.real_side` for the reference. Cached in `work` by digest. Raises ArtifactError.
    """
    settings = config.model_dump(mode="json", exclude={"neighbour_rows", "kid_subsets", "kid_subset_size"})
    key = digest_of([data_digest, extractor.digest, settings, code_digest("evaluate")])
    name = f"{FOLDER}/{key[:24]}.json"
    cached = _read(work, name)
    if cached is None:
        say("scoring real images and noise for comparison")
        cached = _measure(config, reference, extractor, side)
        work.write(name, [json_bytes(cached)])
    return cached


def _measure(config: EvaluateConfig, reference: Reference, extractor: AnyExtractor, side: RealSide | None) -> Baselines:
    held_out = reference.held_out[: config.samples]
    settings = extractor.settings
    shape = (min(config.samples, MOST_NOISE_IMAGES), settings.image_size, settings.image_size, settings.channels)
    noise = extractor.features(np.random.default_rng(config.seed).integers(0, 256, shape, np.uint8))
    k = config.neighbours_k
    enough = len(held_out) > k
    return {
        "floor": measure_features(reference.real, held_out, k, side) | {"images": len(held_out)} if enough else None,
        "ceiling": measure_features(reference.real, noise, k, side) | {"images": len(noise)},
    }


def _read(work: Store, name: str) -> Baselines | None:
    try:
        cached: Any = json.loads(work.read(name))
    except (OSError, ValueError):
        return None
    return dict(cached) if isinstance(cached, dict) and set(cached) == {"floor", "ceiling"} else None
