"""Make the pictures of results.md: results_NAME.png, the samples of some latents after some rounds, and results_curves.png.

python docs/results_pictures.py MODELS    with model artifacts MODELS/NAME/ROUNDS, and MODELS/NAME/scores-ROUNDS.json of `score`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from components.generator import generator

HERE = Path(__file__).parent
# Of each picture: the models of its rows, the samples in a row, and how many times each pixel is repeated.
ROWS = {
    "digits": (("digits/0", "digits/2000", "digits/10000", "digits/21680"), 24, 3),
    "fashion": (tuple(f"fashion/{rounds}" for rounds in (0, 1200, 6000, 24000, 63280)), 20, 1),
    "emoji32": (tuple(f"emoji32/{rounds}" for rounds in (900, 4500, 18000, 54000)), 18, 1),
    "emoji64": (("emoji64s/260", "emoji64s/1260", "emoji64s/5000", "emoji64s/15000", "emoji64/5000", "emoji64/15540"), 9, 1),
}
GAP, GREY = 1, 128  # pixels between two samples, and their value
COLOURS = 256  # of a picture's palette, which keeps its file small


def draw_samples(models: Path, name: str) -> None:
    """Write the picture of a data set: a row for each model, with samples of the same latents."""
    rows, count, scale = ROWS[name]
    drawn = [generator.sample(generator.load(generator.find_saved_model(models / row)), count, seed=0) for row in rows]
    with_gaps = [np.pad(images, [(0, 0), (0, GAP), (0, GAP), (0, 0)], constant_values=GREY) for images in drawn]
    pixels = np.concatenate([np.concatenate(list(images), axis=1) for images in with_gaps])
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.quantize(COLOURS).save(HERE / f"results_{name}.png", optimize=True)


def read_scores(models: Path, name: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the rounds and the scores of a training's models, but for the untrained one."""
    files = sorted((int(file.stem.removeprefix("scores-")), file) for file in (models / name).glob("scores-*.json"))
    return [(rounds, json.loads(file.read_text())) for rounds, file in files if rounds]


def draw_curves(models: Path) -> None:
    """Write the curves of FID and coverage over rounds; dashed: held-out real images."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for panel, metric in zip(panels, ("fid", "coverage"), strict=True):
        for index, name in enumerate(("digits", "fashion", "emoji32", "emoji64s", "emoji64")):
            rounds, scores = zip(*read_scores(models, name), strict=True)
            panel.plot(rounds, [each[metric] for each in scores], "o-", color=f"C{index}", label=name, markersize=4)
            panel.axhline(scores[0]["floor"][metric], color=f"C{index}", linestyle="--", linewidth=0.8)
        panel.set(xscale="log", yscale="log" if metric == "fid" else "linear", xlabel="rounds", title=metric)
    panels[0].legend(fontsize=8)
    figure.savefig(HERE / "results_curves.png", dpi=90)


def main() -> None:
    """Write all pictures beside this file."""
    models = Path(sys.argv[1])
    for name in ROWS:
        draw_samples(models, name)
    draw_curves(models)


if __name__ == "__main__":
    main()
