"""Truncated and interpolated latents, with NumPy only."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Latents = npt.NDArray[np.float32]


def truncated(generator: np.random.Generator, count: int, width: int, threshold: float) -> Latents:
    """Return normal latents [count, width] with every value within ± threshold: values outside are drawn again.

    This is the truncation trick of Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis",
    section 3.1. A smaller threshold gives more typical and less varied images. Raises ValueError below 0.01.
    """
    if not threshold >= 0.01:
        raise ValueError(f"a truncation of {threshold:g} leaves no latents; the minimum is 0.01")
    values = generator.standard_normal((count, width))
    while (beyond := np.abs(values) > threshold).any():
        values[beyond] = generator.standard_normal(int(beyond.sum()))
    return values.astype(np.float32)


def interpolated(ends: npt.ArrayLike, steps: int) -> Latents:
    """Return latents [rows × steps, width], where row i leads from ends[i] to ends[i + 1]; `ends` is [rows + 1, width].

    The latents follow arcs, not lines (White 2016, "Sampling Generative Networks"): in high dimensions nearly all latents have
    about the same norm, and the middle of a line is far below it. Raises ValueError for fewer than 2 steps or ends.
    """
    points = np.asarray(ends, np.float64)
    if steps < 2 or len(points) < 2:
        raise ValueError(f"an interpolation needs 2 ends and 2 steps or more; got {len(points)} and {steps}")
    rows = [_arc(first, last, steps) for first, last in itertools.pairwise(points)]
    return np.concatenate(rows).astype(np.float32)


def _arc(first: npt.NDArray[np.float64], last: npt.NDArray[np.float64], steps: int) -> npt.NDArray[np.float64]:
    shares = np.linspace(0.0, 1.0, steps)[:, None]
    cosine = np.dot(first, last) / (np.linalg.norm(first) * np.linalg.norm(last))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # the same direction, or opposite ones, which many arcs connect
        line: npt.NDArray[np.float64] = (1 - shares) * first + shares * last
        return line
    arc: npt.NDArray[np.float64] = (np.sin((1 - shares) * angle) * first + np.sin(shares * angle) * last) / np.sin(angle)
    return arc
