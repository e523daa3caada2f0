"""Make docs/quickstart.png: samples of a run's generator beside real images, from what `make run` left.

python docs/quickstart_picture.py [RUN_FOLDER]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from components.common.images import write_png

SCALE, GAP = 5, 24


def grid_of(model: Path, name: str) -> np.ndarray:
    """Return one of the model artifact's grids, enlarged."""
    pixels = np.asarray(Image.open(model / "samples" / name))
    return pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)[..., None]


def main() -> None:
    """Write the picture beside this file."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/latest")
    summary = json.loads((run / "summary.json").read_text())
    model = Path(summary["artifacts"]["train"]["path"])
    samples = grid_of(model, f"round-{summary['train']['rounds']:08d}.png")
    gap = np.full((samples.shape[0], GAP, 1), 255, np.uint8)
    picture = np.concatenate([samples, gap, grid_of(model, "real.png")], axis=1)
    write_png(Path(__file__).parent / "quickstart.png", picture)


if __name__ == "__main__":
    main()
