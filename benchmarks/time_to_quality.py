"""Seconds of training until generated images look right: ours, the Keras example and a prototype; prints a JSON line.

The contenders train one after the other on the same 2 cores, each in its own process, and write samples at each mark. Seconds
are processor time divided by cores. Then components.evaluate scores all of them with one extractor, the default one of the
dataset. Results are stored in the folder: a contender that has already trained on this dataset for the same time (and, for
ours, with the same config and code) is not trained again. See docs/time_to_quality.md.

    python benchmarks/time_to_quality.py --dir DIR [--only ours,prototype] [--seconds ours=600,prototype=480]
    python benchmarks/time_to_quality.py --dir DIR --dataset DATASET --config configs/rgb32.toml

Without --dataset, the images are those of Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Import components and tests from this checkout, in any working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.quality import figure
from benchmarks.quality.data import dataset
from benchmarks.quality.train import RECORD
from components.common.artifacts import read_manifest

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "fashion_mnist.toml"
SECONDS = {"ours": 600.0, "prototype": 480.0, "keras64": 1800.0, "keras512": 1800.0}
KERAS = ("keras64", "keras512")
KERAS_BAR_SECONDS, PROTOTYPE_BAR_SECONDS = 90, 240  # goals for ours to reach the last scores of the others
DISTURBED_CORES = 0.1  # cores used by other processes while a contender trained

JsonObject = dict[str, Any]


def train_what_is_missing(names: list[str], seconds: dict[str, float], data: Path, config: Path, folder: Path) -> None:
    """Train each contender without a matching record, in a process of its own."""
    for name in names:
        if trained(folder / name, name, seconds[name], data, config):
            print(f"{name}: already trained", file=sys.stderr)
            continue
        print(f"{name}: {seconds[name]:.0f} s of training", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks.quality.train", name, "--seconds", str(seconds[name])]
        command += ["--dataset", str(data.resolve()), "--config", str(config.resolve())]
        command += ["--folder", str((folder / name).resolve())]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def trained(folder: Path, name: str, seconds: float, data: Path, config: Path) -> bool:
    """Return whether the folder has a training of `seconds` on `data` (of ours: with the current config and code)."""
    record = read_record(folder, data)
    if record is None or record["seconds"] != seconds:
        return False
    if name != "ours":
        return True
    from benchmarks.quality.ours import settings

    return settings(config).items() <= record["settings"].items()


def read_record(folder: Path, data: Path) -> JsonObject | None:
    """Return the record of a training on the dataset artifact `data`, or None."""
    file = folder / RECORD
    record: JsonObject = json.loads(file.read_text()) if file.is_file() else {}
    return record if record.get("dataset") == read_manifest(data, "dataset", verify=False).digest else None


def first_at_or_below(rows: list[JsonObject], fid: float) -> float | None:
    """Return the seconds of the first snapshot whose FID is not above `fid`, or None."""
    return next((row["seconds"] for row in rows if row["fid"] <= fid), None)


def crossing(rows: list[JsonObject], fid: float) -> float | None:
    """Return the seconds at which the FID, interpolated between snapshots on logarithmic axes, first reaches `fid`."""
    for before, after in itertools.pairwise(rows):
        if before["fid"] > fid >= after["fid"] > 0:
            share = math.log(before["fid"] / fid) / math.log(before["fid"] / after["fid"])
            return round(before["seconds"] * (after["seconds"] / before["seconds"]) ** share, 1)
    return rows[0]["seconds"] if rows and rows[0]["fid"] <= fid else None


def against(name: str, curves: dict[str, list[JsonObject]], others: tuple[str, ...], bar_seconds: float) -> JsonObject:
    """Return when ours reaches the best last FID of those of `others` that were trained, and whether within the goal."""
    there = [other for other in others if other in curves]
    if "ours" not in curves or not there:
        return {f"ours_seconds_to_{name}": None, f"ours_seconds_to_{name}_interpolated": None, f"{name}_bar_passed": None}
    best = min((curves[other][-1] for other in there), key=lambda row: row["fid"])
    seconds = first_at_or_below(curves["ours"], best["fid"])
    # Without one of the others, or after a shorter training (a trial of this program), the goal cannot be judged.
    in_full = all(other in curves and curves[other][-1]["seconds"] >= SECONDS[other] for other in others)
    return {
        f"ours_seconds_to_{name}": seconds,
        f"ours_seconds_to_{name}_interpolated": crossing(curves["ours"], best["fid"]),
        f"{name}_fid": best["fid"],
        f"{name}_bar_seconds": bar_seconds,
        f"{name}_bar_passed": (seconds is not None and seconds <= bar_seconds) if in_full else None,
    }


def print_table(curves: dict[str, list[JsonObject]], baseline: JsonObject) -> None:
    """Print all scores to stderr."""
    print(
        "contender  seconds    wall  rounds    images  cores others     FID      KID ±       precision recall coverage",
        file=sys.stderr,
    )
    for name, rows in curves.items():
        for row in rows:
            times = f"{row['seconds']:8.1f} {row['wall_seconds']:7.1f} {row['rounds']:7d} {row['images_seen']:9d}"
            cores = f"{row['cores']:6.2f} {row['others_cores']:6.2f}"
            print(f"{name:9} {times} {cores} {_scores_text(row)}", file=sys.stderr)
    print(f"{'training images against held-out images':59} {_scores_text(baseline)}", file=sys.stderr)


def _scores_text(row: JsonObject) -> str:
    shares = f"{row['precision']:9.3f} {row['recall']:6.3f} {row['coverage']:8.3f}"
    return f"{row['fid']:8.3f} {row['kid']:8.4f} {row['kid_standard_error']:.4f} {shares}"


def warn_of_unequal_terms(records: dict[str, JsonObject]) -> None:
    """Warn on stderr if contenders ran on different machines, or if other processes used the cores."""
    cpus = {(record["cpu"], record["cores"], record["onednn"]) for record in records.values()}
    if len(cpus) > 1:
        print(f"Not comparable: trained on different machines or settings, {sorted(cpus)}.", file=sys.stderr)
    for name, record in records.items():
        taken = record["marks"][-1]["others_cores"]
        if taken > DISTURBED_CORES:
            print(f"{name} was disturbed: other processes used {taken} cores while it trained.", file=sys.stderr)


def scored(
    records: dict[str, JsonObject], data: Path, config: Path, folder: Path
) -> tuple[dict[str, list[JsonObject]], JsonObject, JsonObject]:
    """Return the rows of each contender (marks with scores), the real-image baseline, and facts about the extractor."""
    from benchmarks.quality.scoring import Scorer

    scorer = Scorer(data, config, folder)
    curves = {}
    for name, record in records.items():
        print(f"scoring {name}", file=sys.stderr)
        scores = scorer.score_folder(folder / name, record["marks"])
        curves[name] = [{**mark, **score._asdict()} for mark, score in zip(record["marks"], scores, strict=True)]
    settings = scorer.extractor.settings
    extractor = {"digest": scorer.extractor.digest[:12], "told_apart": settings.told_apart}
    extractor |= {"held_out_accuracy": settings.held_out_accuracy, "samples": scorer.samples}
    return curves, scorer.baseline()._asdict(), extractor


def report(names: list[str], data: Path, config: Path, folder: Path) -> JsonObject:
    """Score the trainings, draw the figure, print the table; return the JSON line."""
    records = {name: record for name in names if (record := read_record(folder / name, data)) is not None}
    curves, baseline, extractor = scored(records, data, config, folder)
    print_table(curves, baseline)
    warn_of_unequal_terms(records)
    details, cpu = read_manifest(data, "dataset", verify=False).details, next(iter(records.values()))["cpu"]
    images = f"{details['image_size']}×{details['image_size']} {'grey' if details['channels'] == 1 else 'RGB'}"
    title = f"{images}, {extractor['samples']:,} samples against as many held-out images; {cpu}"
    figure.draw(curves, baseline, title, folder / "time_to_quality.png")
    return {
        "benchmark": "time_to_quality",
        **against("keras_30min", curves, KERAS, KERAS_BAR_SECONDS),
        **against("prototype_8min", curves, ("prototype",), PROTOTYPE_BAR_SECONDS),
        "extractor": extractor,
        "training_images_against_held_out_images": baseline,
        "contenders": {
            name: {**{key: record[key] for key in ("cpu", "cores", "onednn", "settings")}, "marks": curves[name]}
            for name, record in records.items()
        },
    }


def parse() -> argparse.Namespace:
    """Return the parsed command line, with `seconds` for every contender and `only` as a list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "time_to_quality", help="folder for results")
    parser.add_argument("--dataset", type=Path, help="dataset artifact; default: Fashion-MNIST, ingested from Debian's files")
    parser.add_argument("--config", type=Path, default=CONFIG, help="config whose [train] section ours takes")
    parser.add_argument("--only", default=",".join(SECONDS), help="train only these; all finished trainings are scored")
    parser.add_argument("--seconds", default="", help="NAME=SECONDS,… to replace the defaults")
    arguments = parser.parse_args()
    arguments.only = [name for name in arguments.only.split(",") if name]
    pairs = [item.partition("=") for item in arguments.seconds.split(",") if item]
    unknown = sorted({*arguments.only, *(name for name, _, _ in pairs)} - SECONDS.keys())
    if unknown:
        parser.error(f"unknown contender {', '.join(unknown)}; use {', '.join(SECONDS)}")
    try:
        arguments.seconds = SECONDS | {name: float(value) for name, _, value in pairs}
    except ValueError:
        parser.error(f"--seconds {arguments.seconds}: use NAME=SECONDS,NAME=SECONDS")
    return arguments


def main() -> None:
    arguments = parse()
    with contextlib.redirect_stdout(sys.stderr):  # keep the log of ingest and evaluate out of the JSON line
        data = arguments.dataset or dataset(arguments.dir, CONFIG)
        train_what_is_missing(arguments.only, arguments.seconds, data, arguments.config, arguments.dir)
        row = report(list(SECONDS), data, arguments.config, arguments.dir)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
