"""Make the README's pictures: samples of a run beside real images, and the report of the quickstart.

python docs/readme_pictures.py quickstart RUN_FOLDER     docs/quickstart.png and docs/report.png; needs chromium
python docs/readme_pictures.py own_images RUN_FOLDER     docs/own_images.png, from a run of `wgan-pipeline run --images`
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WIDTH, GAP = 360, 24  # at least, of a grid, and between two, in pixels
WINDOW = "1100,1440"
COLOURS = 256  # of a picture's palette, which keeps its file small


def draw_samples(run: Path, name: str) -> None:
    """Write NAME.png: the last samples of the run's generator, and real images."""
    summary = json.loads((run / "summary.json").read_text())
    folder = Path(summary["artifacts"]["train"]["path"]) / "samples"
    grids = [Image.open(folder / file) for file in (f"round-{summary['train']['rounds']:08d}.png", "real.png")]
    scale = -(-WIDTH // grids[0].width)
    width, height = grids[0].width * scale, grids[0].height * scale
    picture = Image.new("RGB", (2 * width + GAP, height), "white")
    for index, grid in enumerate(grids):
        picture.paste(grid.resize((width, height), Image.Resampling.NEAREST), (index * (width + GAP), 0))
    picture.quantize(COLOURS).save(HERE / f"{name}.png", optimize=True)


def photograph_report(run: Path) -> None:
    """Write report.png: the top of the run's report, with paths relative to the folder that holds `runs/`."""
    page = (run / "report.html").read_text().replace(f"{run.resolve().parents[1]}/", "")
    with tempfile.TemporaryDirectory() as folder:
        html, png = Path(folder) / "report.html", Path(folder) / "report.png"
        html.write_text(page)
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WINDOW}", f"--screenshot={png}"]
        subprocess.run(["chromium", *options, html.as_uri()], check=True, stderr=subprocess.DEVNULL)
        Image.open(png).convert("RGB").quantize(COLOURS).save(HERE / "report.png", optimize=True)


def main() -> None:
    """Write the pictures beside this file."""
    name, run = sys.argv[1], Path(sys.argv[2])
    draw_samples(run, name)
    if name == "quickstart":
        photograph_report(run)


if __name__ == "__main__":
    main()
