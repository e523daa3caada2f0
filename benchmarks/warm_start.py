"""KID after training on a folder that has grown, from the champion and from scratch; prints a JSON line.

A generator is trained on 1,300 of scikit-learn's digits and published. Then 200 digits are added, and models are trained on
all 1,500 for a few rounds, with and without `train.start_from` and with several seeds, through the command line. All are scored
with the same extractor against the same held-out images.

    python benchmarks/warm_start.py [--champion-rounds 1000] [--rounds 100,300,1000] [--seeds 1,2,3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

BEFORE, AFTER = 1300, 1500


def write_digits(folder: Path, first: int, last: int) -> None:
    digits = load_digits()
    for number in range(first, last):
        label = folder / str(digits.target[number])
        label.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(digits.images[number] * 255 / 16).astype(np.uint8)).save(label / f"{number:05d}.png")


def run(root: Path, registry: str, **settings: Any) -> dict[str, Any]:
    """Run the pipeline; return its summary."""
    fixed = {
        "run.dir": root / "runs",
        "ingest.source": f"images:{root / 'images'}",
        "ingest.labels_from_folders": "true",
        "push.registry": root / registry,
        "gate.first_share": 0.0,
        "train.score_every_images": 0,
    }
    every = {f"train.{name}_every_rounds": 100 for name in ("log", "checkpoint", "sample")}
    words = [word for name, value in {**fixed, **every, **settings}.items() for word in ("--set", f"{name}={value}")]
    subprocess.run([sys.executable, "-m", "pipeline", "run", *words], check=True, stdout=sys.stderr)
    return dict(json.loads((root / "runs" / "latest" / "summary.json").read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--champion-rounds", type=int, default=1000)
    parser.add_argument("--rounds", default="100,300,1000")
    parser.add_argument("--seeds", default="1,2,3")
    arguments = parser.parse_args()
    row: dict[str, Any] = {
        "benchmark": "warm_start",
        "champion_rounds": arguments.champion_rounds,
        "kid": {},
        "train_seconds": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_digits(root / "images", 0, BEFORE)
        run(root, "champion", **{"train.rounds": arguments.champion_rounds})
        write_digits(root / "images", BEFORE, AFTER)
        for start in ("champion", "scratch"):
            row["kid"][start], row["train_seconds"][start] = {}, {}
            for rounds in map(int, arguments.rounds.split(",")):
                kids, seconds = [], []
                for seed in map(int, arguments.seeds.split(",")):
                    changed = {"train.rounds": rounds, "train.seed": seed}
                    changed |= {"train.start_from": root / "champion"} if start == "champion" else {}
                    summary = run(root, f"registry-{start}-{rounds}-{seed}", **changed)
                    assert summary["train"]["started_from"] == ("v0001" if start == "champion" else "")
                    kids.append(summary["evaluate"]["kid"])
                    seconds.append(summary["steps"]["train"]["seconds"])
                row["kid"][start][rounds] = [round(statistics.median(kids), 4), round(min(kids), 4), round(max(kids), 4)]
                row["train_seconds"][start][rounds] = round(statistics.median(seconds), 1)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
