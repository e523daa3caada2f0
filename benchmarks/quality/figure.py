"""Draws scores against the time of training, on logarithmic axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"ours": "#c0392b", "prototype": "#2c7fb8", "keras64": "#2e8b57", "keras512": "#8e6bb0"}
LABELS = {
    "ours": "ours",
    "prototype": "prototype",
    "keras64": "Keras example, batch 64",
    "keras512": "Keras example, batch 512",
}
TICKS = (10, 15, 30, 60, 120, 240, 480, 900, 1800)


def draw(curves: dict[str, list[dict[str, Any]]], baseline: dict[str, float], title: str, file: Path) -> None:
    """Write a PNG of FID and KID; the rows of each contender have `seconds`, `fid`, `kid` and `kid_standard_error`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    drawing, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for axis, score in zip(axes, ("fid", "kid"), strict=True):
        for name, rows in curves.items():
            # KID is unbiased: for a good generator it can be below 0, which a logarithmic axis cannot show.
            shown = [row for row in rows if row[score] > 0]
            seconds, values = [row["seconds"] for row in shown], [row[score] for row in shown]
            axis.plot(seconds, values, "o-", color=COLOURS[name], label=LABELS.get(name, name), markersize=4)
            if name != "ours" and values:
                axis.axhline(values[-1], color=COLOURS[name], linewidth=0.8, linestyle=":")
            if score == "kid":
                errors = [min(row["kid_standard_error"], 0.99 * row["kid"]) for row in shown]
                axis.errorbar(seconds, values, errors, fmt="none", color=COLOURS[name], linewidth=0.8)
        if baseline[score] > 0:
            axis.axhline(
                baseline[score], color="black", linewidth=0.8, linestyle="--", label="training images against held-out images"
            )
        xlabel = "seconds of training (processor time / cores)"
        axis.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=f"{score.upper()} (less is better)")
        axis.set_xlim(left=TICKS[0] * 0.8)
        axis.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].legend(frameon=False)
    drawing.suptitle(title, fontsize=10)
    drawing.savefig(file, dpi=110)
    plt.close(drawing)
