"""`score` gives the numbers of the pipeline: of its dataset and model, and of the folder that was ingested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.common.artifacts import read_manifest
from components.evaluate import run as evaluate
from components.evaluate.config import EvaluateConfig
from components.evaluate.scores import EvaluateSummary
from components.ingest import run as ingest
from components.ingest.config import IngestConfig
from components.train import run as train
from components.train.config import TrainConfig
from tests.support.command_line import output_of
from tests.support.datasets.image_folder import write_digit_images
from tests.support.datasets.tiny_artifacts import write_validation

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]

TRAINED = TrainConfig(
    rounds=40, rounds_per_call=10, checkpoint_every_rounds=20, global_batch_size=32, generator_channels=4, critic_channels=4
)


class Trained:
    """A folder of 1,200 digits of 32×32 pixels with copies and broken files, its dataset, a model, and its evaluation."""

    def __init__(self, root: Path) -> None:
        self.folder, self.dataset, self.model = root / "images", root / "dataset", root / "model"
        write_digit_images(self.folder, 1200)
        for file in sorted((self.folder / "0").glob("*.png"))[:9]:
            (self.folder / "0" / f"copy of {file.name}").write_bytes(file.read_bytes())
        source = IngestConfig(source=f"images:{self.folder}", labels_from_folders=True)
        self.counts = ingest.run(source, out=self.dataset)
        validation = write_validation(root / "validation", self.dataset)
        train.run(TRAINED, dataset=self.dataset, validation=validation, work_dir=root / "work", out=self.model)
        config = EvaluateConfig(samples=300, kid_subset_size=100)
        folders = {"dataset": self.dataset, "model": self.model, "work_dir": root / "work"}
        self.summary: EvaluateSummary = evaluate.run(config, **folders, out=root / "evaluation")
        self.scores = json.loads((root / "evaluation" / "scores.json").read_bytes())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


def score(*words: object) -> dict[str, Any]:
    """Run the command in a process of its own and return what it prints."""
    options = ["--samples=300", "--json", "--set=evaluate.kid_subset_size=100"]
    return dict(json.loads(output_of("score", *map(str, words), *options)))


def test_dataset_and_model(trained: Trained) -> None:
    found = score(trained.dataset, trained.model)
    assert {name: found[name] for name in trained.scores} == trained.scores
    assert found["fake"]["kind"] == "generator"
    assert found["not_measured"] == {}


def test_the_folder_that_was_ingested(trained: Trained) -> None:
    sides = (trained.folder, trained.model / "saved_model")
    found = score(*sides, "--labels-from-folders", "--image-size=8", "--channels=1")
    expected = json.loads(json.dumps(trained.scores))
    for origin in (found["provenance"], expected["provenance"]):
        del origin["real"]["dataset"], origin["weights"]  # of a folder; and a SavedModel alone does not say what it holds
    assert {name: found[name] for name in expected} == expected
    assert found["real"]["left_out"] == trained.counts.quarantined == 4
    assert found["real"]["images"] == trained.counts.kept == read_manifest(trained.dataset).counts["kept"]
    assert trained.counts.duplicate == 9
