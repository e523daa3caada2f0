"""Artifacts read for the report: only what is shown, and only what matches its digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.common.errors import ArtifactError
from components.common.journal import ArtifactRef
from components.report.artifact_reader import ArtifactReader, open_unfinished_training
from tests.support.report_runs import CONFIGS, Run, digits


def test_only_the_needed_images_are_read(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.ingest()
    shard = run.out("ingest") / "train-00000-of-00001.tfrecord"
    dataset = ArtifactReader("dataset", ArtifactRef(path=str(run.out("ingest")), digest="0" * 64))
    assert "is not the one that this run wrote" in dataset.notes[0]
    with shard.open("r+b") as stream:
        stream.truncate(64 * 200)  # of 1,437 records only the first remain
    assert np.array_equal(dataset.images("train", 16), digits()[:16])


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path).all()
    image = run.out("evaluate") / "samples.png"
    content = bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)
    evaluation = ArtifactReader("evaluation", ArtifactRef(path=str(image.parent), digest="0" * 64))
    with pytest.raises(ArtifactError, match=r"samples\.png is damaged"):
        evaluation.content("samples.png")
    assert evaluation.content("neighbours.png")
    with pytest.raises(ArtifactError, match=r"there is no \.\./secret in"):
        evaluation.content("../secret")


def test_an_unfinished_training_is_identified_by_its_configuration(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.ingest()
    run.validate()
    run.break_training(RuntimeError("gone"))
    with open_unfinished_training(run.work_dir, run.description.config["train"]) as checkpoint:
        assert checkpoint.path.name == "round-00000500"
        assert checkpoint.notes == []
        assert len(checkpoint.lines("metrics.jsonl")) == 10
        assert "samples/real.png" in checkpoint.names("samples/", ".png")
    other = CONFIGS["train"].model_copy(update={"seed": 1}).model_dump(mode="json")
    for work_dir in (run.work_dir, tmp_path / "nowhere"):
        with open_unfinished_training(work_dir, other) as nothing:
            assert nothing.manifest is None
