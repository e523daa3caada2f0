"""How far the features of the scores can be trusted, and what the gate says of scored models as a first model.

    PYTHONPATH=. python docs/feature_trust.py sets DATASET [DATASET …] [--without-labels]
    PYTHONPATH=. python docs/feature_trust.py verdicts SCORES.json [SCORES.json …]

`sets` trains the default extractor on each dataset artifact, and prints as a Markdown table what the useless sets
(components/evaluate/useless.py) and held-out real images score with it, and with random features. Coverage is a share of what
as many real images would cover. `verdicts` reads files of `wgan-pipeline score DATASET MODEL --json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from components.dataset.records import NO_LABEL, ImageSet
from components.dataset.stored_images import open_split
from components.evaluate import useless
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor_training import random_extractor, train_extractor
from components.evaluate.metrics.prdc import expected_coverage
from components.evaluate.scores import measure_features
from components.gate.checks import check_candidate
from components.gate.config import GateConfig

CONFIG = EvaluateConfig()


def read(dataset: Path, split: str, labels: bool) -> ImageSet:
    """Return at most CONFIG.real_images images of a split."""
    stored = open_split(dataset, split)
    images = stored.images[: min(len(stored.images), CONFIG.real_images)]
    known = np.asarray(stored.labels[: len(images)]) if labels else np.full(len(images), NO_LABEL)
    return ImageSet(images, known, tuple(map(str, range(len(images)))))


def sets(dataset: Path, labels: bool) -> None:
    """Print the table of a dataset."""
    train, held_out = (read(dataset, split, labels) for split in ("train", "eval"))
    trained = train_extractor(train, held_out, CONFIG.extractor_epochs)
    count = CONFIG.samples
    shown = {"real, held out": held_out.images[:count]}
    shown |= {name: useless.make(name, train.images[:count], count, np.random.default_rng(0)) for name in useless.SETS}
    found = {}
    for kind, extractor in (("trained", trained), ("random", random_extractor(train.images))):
        real = extractor.features(train.images)
        for name, images in shown.items():
            scores = measure_features(real, extractor.features(images), CONFIG.neighbours_k)
            scores["coverage"] /= expected_coverage(len(real), len(images), CONFIG.neighbours_k)
            found[kind, name] = " | ".join(f"{scores[key]:.3f}" for key in ("precision", "recall", "coverage", "kid"))
    labelled = "with" if trained.settings.classes else "without"
    print(f"\n{dataset.name}, {labelled} labels; told apart {trained.settings.told_apart:.3f}\n")
    print("| images | precision | recall | coverage | KID | random: precision | recall | coverage | KID |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in shown:
        print(f"| {name} | {found['trained', name]} | {found['random', name]} |")


def verdicts(files: list[Path]) -> None:
    """Print what the gate says of each model as the first one of a registry."""
    print("| model | precision | recall | coverage | KID | published | because of |\n|---|---|---|---|---|---|---|")
    for file in files:
        scores = json.loads(file.read_text())
        checks = check_candidate(GateConfig(), scores, None)
        limits = {check.name: f"{check.numbers['value']:.3g} (limit {check.numbers['limit']:.2g})" for check in checks[2:]}
        failed = ", ".join(check.name.removeprefix("first_") for check in checks if not check.passed)
        model = f"{file.parent.name} {file.stem.removeprefix('scores-')}"
        print(f"| {model} | {' | '.join(limits.values())} | {'no' if failed else 'yes'} | {failed} |")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sets", "verdicts"])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--without-labels", action="store_true")
    arguments = parser.parse_args()
    if arguments.what == "verdicts":
        verdicts(arguments.paths)
        return
    for dataset in arguments.paths:
        sets(dataset, not arguments.without_labels)


if __name__ == "__main__":
    main()
