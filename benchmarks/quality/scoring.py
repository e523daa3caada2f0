"""Scores all snapshots with components.evaluate: one extractor, one set of real images, the same number of samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.quality.contender import Images
from benchmarks.quality.train import name_of, sample_count
from components.common.artifacts import code_digest, digest_of, file_sha256, read_manifest, write_json
from components.common.command import read_section
from components.common.store import Folder
from components.dataset.records import read_split
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor import Extractor
from components.evaluate.features.extractor_training import extractor_for
from components.evaluate.metrics import fid, kid, prdc

SCORES = "scores.json"
DIGITS = 5


class SnapshotScores(NamedTuple):
    """FID and KID with its standard error (0 is best), and shares in [0, 1]."""

    fid: float
    kid: float
    kid_standard_error: float
    precision: float
    recall: float
    coverage: float


class Scorer:
    """Holds the default extractor of the dataset, trained on its training images, and the features of held-out images."""

    def __init__(self, dataset: Path, config: Path, work_dir: Path) -> None:
        self.config = read_section(EvaluateConfig, "evaluate", config).model_copy(update={"extractor": "default"})
        train, held_out = read_split(dataset, "train"), read_split(dataset, "eval")
        digest = read_manifest(dataset, "dataset").digest
        self.extractor: Extractor = extractor_for(self.config, dataset, digest, train, held_out, Folder(work_dir))
        self.train_images, self.samples = train.images, sample_count(dataset)
        self.real = self.extractor.features(held_out.images[: self.samples])
        self.key = digest_of([self.extractor.digest, self.config.model_dump(mode="json"), code_digest("evaluate")])

    def score(self, images: Images) -> SnapshotScores:
        """Return the scores of images [N, H, W, C]."""
        fake, k = self.extractor.features(images), self.config.neighbours_k
        subsets = {"subsets": self.config.kid_subsets, "subset_size": self.config.kid_subset_size, "seed": self.config.seed}
        shares = prdc.compute(self.real, fake, k)
        scores = fid.compute(self.real, fake), *kid.compute_with_error(self.real, fake, **subsets)
        values = *scores, shares.precision, shares.recall, shares.coverage
        return SnapshotScores(*(round(value, DIGITS) for value in values))

    def baseline(self) -> SnapshotScores:
        """Return the scores of as many training images as there are samples: those of a perfect generator."""
        rows: npt.NDArray[np.int64] = np.random.default_rng(0).choice(len(self.train_images), self.samples, replace=False)
        return self.score(self.train_images[rows])

    def score_folder(self, folder: Path, marks: list[dict[str, Any]]) -> list[SnapshotScores]:
        """Return the scores of a contender's snapshots; scores are cached under the extractor, config, code and samples."""
        file = folder / SCORES
        known = json.loads(file.read_text()) if file.is_file() else {}
        scores = []
        for mark in marks:
            snapshot = folder / f"{name_of(mark['mark'])}.npy"
            key = digest_of([self.key, file_sha256(snapshot)])
            if key not in known:
                known[key] = self.score(np.load(snapshot, allow_pickle=False))._asdict()
                write_json(file, known)
            scores.append(SnapshotScores(**known[key]))
        return scores
