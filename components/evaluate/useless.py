"""Images that nobody would publish, made from the training images: what a generator must be far from.

They are scored with the candidate's own extractor. So they also show how far its features can be trusted: if one of these sets
scores as real images do, the features are blind to what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from components.evaluate.features import damage
from components.evaluate.features.damage import Generator, Values
from components.evaluate.features.damage import Pixels as Images

Scores = Mapping[str, Mapping[str, float]]

HANDFUL = 5  # images, at most one of 150: each covers about k + 1 = 6 balls of real images, which is much of a small set
# The features tell a set from real images if its precision or recall, and its coverage, are below these.
SMALL_SHARE, SMALL_COVERAGE = 0.1, 0.05


def make(name: str, images: Images, count: int, generator: Generator) -> Images:
    """Return `count` images of a set of SETS, made from training images uint8 [N, H, W, C]."""
    return damage.as_pixels(SETS[name](images, count, generator))


def _mean(images: Images, count: int, deviation: float, generator: Generator) -> Values:
    noise = deviation * generator.standard_normal((count, *images.shape[1:]), np.float32)
    return np.asarray(images.mean(axis=0, dtype=np.float64).astype(np.float32) + noise)


def _blurred(images: Images, count: int, generator: Generator) -> Values:
    return damage.blurred(damage.some(images, count, generator), max(1.0, images.shape[1] / 16))


def _shifted(images: Images, count: int, generator: Generator) -> Values:
    return damage.shifted(damage.some(images, count, generator), images.shape[1] // 4, images.shape[1] // 4)


SETS: dict[str, Callable[[Images, int, Generator], Values]] = {
    "noise": lambda images, count, generator: generator.integers(0, 256, (count, *images.shape[1:])),
    "smooth noise": damage.smooth_noise,
    "the mean image": lambda images, count, generator: _mean(images, count, 0, generator),
    "the mean image with noise": lambda images, count, generator: _mean(images, count, 16, generator),
    "one image": lambda images, count, _: np.repeat(images[:1], count, axis=0),
    "a handful of images": lambda images, count, generator: images[
        generator.integers(0, max(1, min(HANDFUL, len(images) // 150)), count)
    ],
    "blurred images": _blurred,
    "shifted images": _shifted,
}


def not_told_apart(useless: Scores) -> list[str]:
    """Return the sets that the features do not tell from real images."""
    return [
        name
        for name, scores in useless.items()
        if min(scores["precision"], scores["recall"]) >= SMALL_SHARE or scores["coverage"] >= SMALL_COVERAGE
    ]


def trust_sentence(scores: Mapping[str, Any]) -> str:
    """Return how far the features can be trusted; empty if the scores are of a version that did not measure it."""
    useless: Scores = scores.get("useless") or {}
    if not useless:
        return ""
    if blind := not_told_apart(useless):
        found = ", ".join(
            f"{name} (precision {useless[name]['precision']:.2f}, recall {useless[name]['recall']:.2f}, "
            f"coverage {useless[name]['coverage']:.2f})"
            for name in blind
        )
        return f"These features do not tell all useless images from real ones: {found}. Trust these scores less."
    return f"These features tell all {len(useless)} useless sets from real images: {', '.join(useless)}."
