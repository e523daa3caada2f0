"""The two pictures of docs/lipschitz.md."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from components.common.images import grid

matplotlib.use("agg")
from matplotlib import pyplot as plt

COLOURS = ("#0072b2", "#d55e00", "#e69f00")  # Okabe and Ito's palette, safe for colour blindness
MARKERS, STYLES = "os^", ("-", "--", "-.")
DPI = 90
COLUMNS, SHOWN = 6, 24
PALETTE = 256  # colours of a PNG; with all colours it would be three times larger


def draw_critics(shallow: dict[str, Any], deep: dict[str, Any], file: Path) -> None:
    """Write a PNG: above, the surfaces of the shallow critics; below, gradients, slopes and weights of the deep ones."""
    drawing = plt.figure(figsize=(11, 6.6), layout="constrained")
    above, below = drawing.subfigures(2, 1)
    for axis, (name, critic) in zip(above.subplots(1, 3), shallow.items(), strict=True):
        _surface(above, axis, critic.surface)
        axis.set_title(f"{name}\nmedian slope {np.median(critic.slopes):.2g}", fontsize=10)
    layers, slopes, weights = below.subplots(1, 3)
    _gradient_norms(layers, deep)
    _histogram(slopes, {name: critic.slopes for name, critic in deep.items()})
    slopes.set(xlabel="norm of the score's gradient at the point")
    slopes.set_title("slopes at mixed points, 12 hidden layers", fontsize=10)
    _weights(weights, {name: critic.weights for name, critic in deep.items()})
    weights.set_title("weights, 12 hidden layers", fontsize=10)
    _write(drawing, file)


def draw_digits(reals: dict[Any, np.ndarray], results: dict[Any, dict[str, Any]], file: Path) -> None:
    """Write a PNG: for each size a row of real digits and samples after the same rounds; below, slopes and weights."""
    drawing = plt.figure(figsize=(11, 2.5 * len(results) + 2.9), layout="constrained")
    parts = drawing.subfigures(len(results) + 1, 1, height_ratios=[*[2.5] * len(results), 2.9])
    below = parts[-1].subplots(1, len(results) + 1)
    for part, slopes, (case, moments) in zip(parts[:-1], below[:-1], results.items(), strict=True):
        first, *others = part.subplots(1, len(moments) + 1)
        _samples(first, reals[case], case.size)
        first.set_title(f"real digits, {case.size}×{case.size}", fontsize=10)
        first.set_xlabel(" ", fontsize=9)  # makes it as high as the others
        for axis, (name, (same_rounds, same_seconds)) in zip(others, moments.items(), strict=True):
            _samples(axis, same_rounds.moment.samples, case.size)
            axis.set_title(f"{name}, {same_rounds.moment.rounds} rounds", fontsize=10)
            axis.set_xlabel(f"FID {same_rounds.fid:.2f}; at the same CPU time {same_seconds.fid:.2f}", fontsize=9)
        _histogram(slopes, {name: scored.moment.slopes for name, (scored, _) in moments.items()})
        slopes.set(xlabel="norm of the score's gradient at the image")
        slopes.set_title(f"slopes at mixed images, {case.size}×{case.size}", fontsize=10)
    below[0].legend(frameon=False, fontsize=8, loc="upper center")
    case, moments = next(iter(results.items()))
    _weights(below[-1], {name: scored.moment.weights for name, (scored, _) in moments.items()})
    below[-1].set_title(f"weights, {case.size}×{case.size}", fontsize=10)
    _write(drawing, file)


def _surface(drawing: Any, axis: Any, scores: np.ndarray) -> None:
    drawn = axis.contourf(*_axes(scores), scores, levels=24, cmap="viridis")
    axis.contour(*_axes(scores), scores, levels=12, colors="white", linewidths=0.4)
    angles = np.arange(8) * np.pi / 4
    axis.plot(2 * np.cos(angles), 2 * np.sin(angles), "o", color="white", markeredgecolor="black", markersize=6)
    axis.set(aspect="equal", xticks=[], yticks=[])
    ticks = np.linspace(scores.min(), scores.max(), 3)
    bar = drawing.colorbar(drawn, ax=axis, shrink=0.8, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ticks], fontsize=8)
    bar.set_label("score", fontsize=8)


def _axes(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-4.0, 4.0, len(scores))
    return axis, axis


def _gradient_norms(axis: Any, critics: dict[str, Any]) -> None:
    for index, (name, critic) in enumerate(critics.items()):
        layers = np.arange(1, len(critic.gradient_norms) + 1)
        axis.plot(layers, critic.gradient_norms, MARKERS[index] + STYLES[index], color=COLOURS[index], label=name, markersize=4)
    axis.set(yscale="log", xlabel="hidden layer, from the input to the score", ylabel="mean norm", xticks=[1, 4, 8, 12])
    axis.set_title("gradient of the score at each of 12 layers", fontsize=10)
    axis.grid(visible=True, alpha=0.3)
    axis.legend(frameon=False, fontsize=8)


def _histogram(axis: Any, slopes: dict[str, np.ndarray]) -> None:
    everything = np.concatenate(list(slopes.values()))
    bins = np.geomspace(everything.min() / 1.5, everything.max() * 1.5, 70)
    for index, (name, values) in enumerate(slopes.items()):
        share = np.full(len(values), 1.0 / len(values))
        axis.hist(values, bins, weights=share, color=COLOURS[index], label=name, histtype="stepfilled", alpha=0.8)
    axis.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", ylabel="share")


def _weights(axis: Any, weights: dict[str, np.ndarray]) -> None:
    bins = np.linspace(-0.15, 0.15, 201)
    for index, (name, values) in enumerate(weights.items()):
        share = np.full(len(values), 1.0 / len(values))
        axis.hist(
            values, bins, weights=share, color=COLOURS[index], label=name,
            histtype="step", linewidth=1.2,
        )  # fmt: skip
    axis.set(yscale="log", xlabel="weight (beyond ±0.15 not shown)", ylabel="share", xticks=[-0.1, 0.0, 0.1])


def _samples(axis: Any, images: np.ndarray, size: int) -> None:
    canvas = grid(images[:SHOWN], COLUMNS, scale=max(1, 32 // size))
    axis.imshow(canvas[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _write(drawing: Any, file: Path) -> None:
    stream = io.BytesIO()
    drawing.savefig(stream, dpi=DPI)
    plt.close(drawing)
    Image.open(stream).convert("RGB").quantize(PALETTE, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)
