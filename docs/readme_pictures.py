"""Make the README's pictures from a run: docs/quickstart.png (samples beside real images) and docs/report.png (the report).

python docs/readme_pictures.py [RUN_FOLDER]      needs chromium for the report
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from components.common.images import write_png

HERE = Path(__file__).parent
SCALE, GAP = 5, 24
WINDOW = "1100,1440"
PALETTE = 128  # colours of the screenshot, which keep the file small


def enlarged_grid(model: Path, name: str) -> np.ndarray:
    """Return one of the model artifact's grids, enlarged."""
    pixels = np.asarray(Image.open(model / "samples" / name))
    return pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)[..., None]


def draw_samples(run: Path) -> None:
    """Write quickstart.png: the last samples of the run's generator, and real images."""
    summary = json.loads((run / "summary.json").read_text())
    model = Path(summary["artifacts"]["train"]["path"])
    samples = enlarged_grid(model, f"round-{summary['train']['rounds']:08d}.png")
    gap = np.full((samples.shape[0], GAP, 1), 255, np.uint8)
    write_png(HERE / "quickstart.png", np.concatenate([samples, gap, enlarged_grid(model, "real.png")], axis=1))


def photograph_report(run: Path) -> None:
    """Write report.png: the top of the run's report, with paths relative to the folder that holds `runs/`."""
    page = (run / "report.html").read_text().replace(f"{run.resolve().parents[1]}/", "")
    with tempfile.TemporaryDirectory() as folder:
        html, png = Path(folder) / "report.html", Path(folder) / "report.png"
        html.write_text(page)
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WINDOW}", f"--screenshot={png}"]
        subprocess.run(["chromium", *options, html.as_uri()], check=True, stderr=subprocess.DEVNULL)
        Image.open(png).convert("RGB").quantize(PALETTE).save(HERE / "report.png", optimize=True)


def main() -> None:
    """Write both pictures beside this file."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/latest")
    draw_samples(run)
    photograph_report(run)


if __name__ == "__main__":
    main()
