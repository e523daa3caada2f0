"""Whether a candidate's KID is better than the champion's beyond noise; pure.

Both are scored against the same real images, so what is real against real cancels in the difference, and the scatter of
the real images is shared. The bootstrap (Efron and Tibshirani 1993, chapter 13) resamples both sets of samples and, once for
both, the real images; the share of resamplings in which the candidate is better is the confidence that it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.kid import kernel
from components.evaluate.products import Floats, as_features, inner_products


class Evidence(NamedTuple):
    """The champion's KID less the candidate's: above 0 the candidate is better.

    `share_better` is the share of `replicates` resamplings in which it is; `low` and `high` bound the middle 90 % of them.
    """

    difference: float
    share_better: float
    low: float
    high: float
    replicates: int


def compare(
    real_features: npt.ArrayLike,
    candidate_features: npt.ArrayLike,
    champion_features: npt.ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Evidence:
    """Return the evidence for candidate [M, D] over champion [K, D], both against real features [N, D].

    Cost: the three kernels once, and one product of the weights [replicates, ·] with each. Raises ValueError.
    """
    real, candidate, champion = (as_features(each) for each in (real_features, candidate_features, champion_features))
    widths = {name: each.shape[1] for name, each in (("real", real), ("candidate", candidate), ("champion", champion))}
    if len(set(widths.values())) > 1:
        raise ValueError(f"features differ in width: {', '.join(f'{name} {width}' for name, width in widths.items())}")
    if min(len(candidate), len(champion)) < 2:
        raise ValueError(f"KID needs at least 2 images of each kind; got {len(candidate)} and {len(champion)}")
    generator = np.random.default_rng(seed)
    of_real, of_candidate, of_champion = (_weights(generator, len(each), replicates) for each in (real, candidate, champion))
    differences = _kid_but_for_real(champion, real, of_champion, of_real) - _kid_but_for_real(
        candidate, real, of_candidate, of_real
    )
    drawn = differences[1:]
    low, high = np.quantile(drawn, (0.05, 0.95))
    return Evidence(float(differences[0]), float((drawn > 0).mean()), float(low), float(high), replicates)


def _weights(generator: np.random.Generator, count: int, replicates: int) -> Floats:
    """How often each image is drawn, float64 [1 + replicates, count]; the first row is the sample itself."""
    drawn = generator.multinomial(count, np.full(count, 1.0 / count), size=replicates)
    return np.concatenate([np.ones((1, count)), drawn])


def _kid_but_for_real(fake: Floats, real: Floats, of_fake: Floats, of_real: Floats) -> Floats:
    """Return KID without its term of real pairs, which cancels in a difference: float64 [replicates]."""
    # An image drawn twice is no pair of different images: such pairs would bring the bias back that KID is free of.
    pairs = of_fake.sum(axis=1) ** 2 - (of_fake**2).sum(axis=1)
    within = _quadratic_form(fake, fake, of_fake, of_fake, without_diagonal=True) / pairs
    mixed = _quadratic_form(fake, real, of_fake, of_real) / (of_fake.sum(axis=1) * of_real.sum(axis=1))
    difference: Floats = within - 2.0 * mixed
    return difference


def _quadratic_form(
    left: Floats, right: Floats, of_left: Floats, of_right: Floats, *, without_diagonal: bool = False
) -> Floats:
    """Return Σᵢⱼ uᵢ k(xᵢ, yⱼ) vⱼ for every row u of `of_left` and v of `of_right`, a block of the kernel at a time."""
    total = np.zeros(len(of_left))
    for rows, products in inner_products(left, right):
        block = kernel(products, left.shape[1])
        if without_diagonal:
            block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = 0.0
        total += np.einsum("bn,bn->b", of_left[:, rows] @ block, of_right)
    return total
