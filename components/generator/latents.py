"""Latents chosen otherwise than plainly at random: truncated, or on the way from one to the next; NumPy only."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Latents = npt.NDArray[np.float32]


def truncated(generator: np.random.Generator, count: int, width: int, threshold: float) -> Latents:
    """Return normal latents [count, width] whose values beyond ± threshold are drawn again until none is.

    The truncation trick of Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis",
    section 3.1: the smaller the threshold, the more typical and the less varied the images. Raises ValueError below 0.01.
    """
    if not threshold >= 0.01:
        raise ValueError(f"a truncation of {threshold:g} leaves no latents; 0.01 is the least")
    values = generator.standard_normal((count, width))
    while (beyond := np.abs(values) > threshold).any():
        values[beyond] = generator.standard_normal(int(beyond.sum()))
    return values.astype(np.float32)


def interpolated(ends: npt.ArrayLike, steps: int) -> Latents:
    """Return latents [rows × steps, width] along the arcs between ends [rows + 1, width], each row from one to the next.

    Along arcs and not along lines (White 2016, "Sampling Generative Networks"): in many dimensions nearly all latents have
    one norm, and the middle of a line is far below it. Raises ValueError for fewer than 2 steps or ends.
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
    if np.sin(angle) < 1e-6:  # the same direction, or opposite ones, between which there is no one arc
        line: npt.NDArray[np.float64] = (1 - shares) * first + shares * last
        return line
    arc: npt.NDArray[np.float64] = (np.sin((1 - shares) * angle) * first + np.sin(shares * angle) * last) / np.sin(angle)
    return arc
