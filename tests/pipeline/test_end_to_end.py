"""The whole pipeline with the real KFP runner, real Beam and real digits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.common.artifacts import read_manifest
from tests.support.command_line import output_of
from tests.support.datasets.image_folder import write_digit_images
from tests.support.local_runs import Outcome, leftovers, run

STEPS = ["ingest", "validate", "train", "evaluate", "gate", "push"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(runs: Path) -> Outcome:
    return run(runs)


@pytest.fixture(scope="module")
def second(runs: Path, first: Outcome) -> Outcome:
    assert first.code == 0
    return run(runs)


def test_a_run_succeeds_and_prints_the_path_of_its_report(first: Outcome, runs: Path) -> None:
    assert first.code == 0, first.stdout + first.stderr
    assert first.statuses() == dict.fromkeys(STEPS, "succeeded")
    assert f"Report   {runs}" in first.stdout
    assert first.stderr == ""
    assert leftovers(runs) == []


def test_the_summary_has_every_documented_key(first: Outcome) -> None:
    summary = first.summary
    assert summary["status"] == "succeeded"
    assert summary["ingest"]["read"] == 1797
    assert summary["ingest"]["kept"] + summary["ingest"]["duplicate"] + summary["ingest"]["quarantined"] == 1797
    assert summary["train"]["rounds"] == 40
    assert summary["train"]["images_seen"] == 40 * 3 * 16
    assert summary["train"]["resumed_from_round"] is None
    assert summary["train"]["critic_images_per_second"] > 0
    scores = summary["evaluate"]
    assert scores.keys() >= {
        "fid", "kid", "kid_std", "precision", "recall", "density", "coverage", "memorization", "provenance",
        "floor", "ceiling", "intervals",
    }  # fmt: skip
    assert scores["floor"]["fid"] < scores["ceiling"]["fid"]
    assert scores["intervals"]["fid"][0] <= scores["fid"] <= scores["intervals"]["fid"][1]
    assert scores["fid"] > 0
    assert scores["provenance"]["extractor"]["kind"] == "trained"
    assert summary["gate"]["decision"] == "blessed"
    assert summary["push"]["decision"] == "published"
    assert summary["push"]["version"] == "v0001"
    assert all(not row["cached"] and row["seconds"] > 0 for row in summary["steps"].values())


def test_every_artifact_is_complete_and_names_its_inputs(first: Outcome) -> None:
    manifests = {step: read_manifest(Path(first.summary["artifacts"][step]["path"])) for step in STEPS}
    assert manifests["train"].inputs["dataset"] == manifests["ingest"].digest
    assert manifests["evaluate"].inputs["model"] == manifests["train"].digest
    assert manifests["gate"].inputs["evaluation"] == manifests["evaluate"].digest
    assert manifests["push"].inputs["verdict"] == manifests["gate"].digest


def shown_by(run: Outcome, runs: Path) -> dict[str, Any]:
    """Return what the steps of a run gave the platform to show, by STEP.OUTPUT: metadata of Metrics, and text.

    The metadata is in the cache of KFP's local runner. gate and push are never cached, but their Metrics are also in a file.
    """
    shown: dict[str, Any] = {}
    for step, text in (("gate", "checks"), ("push", "outcome")):
        push = Path(run.summary["artifacts"][step]["path"]).parent
        shown |= {f"{step}.metrics": json.loads((push / "metrics").read_text()), f"{step}.{text}": (push / text).read_text()}
    for entry in (runs / ".work" / "cache").glob("*.json"):
        for name, artifact in json.loads(entry.read_text()).items():
            file = Path(artifact["uri"])
            if not file.is_relative_to(push.parent):
                continue  # of a later run
            if artifact["schema_title"] == "system.Metrics":
                shown[f"{file.parent.name}.{name}"] = artifact["metadata"]
                assert json.loads(file.read_text()) == artifact["metadata"]
            elif artifact["schema_title"] in {"system.HTML", "system.Markdown"}:
                shown[f"{file.parent.name}.{name}"] = file.read_text()
    return shown


def test_steps_give_the_platform_numbers_and_pages_to_show(first: Outcome, runs: Path) -> None:
    shown, scores = shown_by(first, runs), first.summary["evaluate"]
    numbers = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    assert shown["evaluate.metrics"] == numbers
    assert {"fid", "kid", "kid_std", "precision", "recall", "density", "coverage", "memorization"} <= numbers.keys()
    assert f"| FID | {scores['fid']:.3f} |" in shown["evaluate.scores"]
    assert shown["gate.metrics"].items() >= {"blessed": 1.0, "data_passed": 1.0, "first_kid_value": scores["kid"]}.items()
    assert shown["gate.checks"].startswith("# Blessed\n")
    assert shown["push.metrics"] == {"published": 1.0}
    assert shown["push.outcome"].startswith("# Published as v0001\n")
    assert "# Generator v0001\n" in shown["push.outcome"]
    assert "No anomaly was found." in shown["validate.findings"]
    assert "1,797" in shown["validate.findings"]
    assert "Wasserstein gap" in shown["train.curves"]
    assert shown["train.curves"].count("data:image/png;base64,") >= 4  # samples of three rounds, and real images


def test_an_unchanged_second_run_takes_every_step_from_the_cache(first: Outcome, second: Outcome) -> None:
    assert second.code == 0
    assert all(row["cached"] for row in second.summary["steps"].values())
    assert "Nothing new: an earlier run had the same data, configuration and code." in second.stdout
    assert second.summary["push"]["decision"] == "unchanged"
    assert second.summary["evaluate"] == first.summary["evaluate"]
    assert second.summary["artifacts"]["train"] == first.summary["artifacts"]["train"]


def test_both_runs_have_reports(second: Outcome, runs: Path) -> None:
    pages = [file.read_text() for file in runs.glob("2*/report.html")]
    assert len(pages) == 2
    assert all("v0001" in page for page in pages)
    listed = output_of("runs", "--runs-dir", str(runs))
    assert listed.count("succeeded") == 2
    assert "published" in listed
    assert "unchanged" in listed


def test_generate_draws_from_the_champion(first: Outcome, runs: Path, tmp_path: Path) -> None:
    words = ["generate", str(runs / "registry"), "--count", "5", "--seed", "3"]
    for folder in ("a", "b"):
        output_of(*words, "--out", str(tmp_path / folder))
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == [*(f"{index}.png" for index in range(5)), "grid.png"]
    for index in range(5):
        image = np.asarray(Image.open(tmp_path / "a" / f"{index}.png"))
        assert image.shape == (8, 8)
        np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / "b" / f"{index}.png")))


def test_a_champion_of_another_image_size_is_refused_before_any_step(first: Outcome, runs: Path, tmp_path: Path) -> None:
    refused = run(tmp_path / "other", f"push.registry={runs / 'registry'}", "ingest.image_size=16")
    assert refused.code != 0
    assert "8×8" in refused.stderr
    assert "16×16" in refused.stderr
    assert refused.summary == {}


def test_an_unusable_tpu_is_reported_in_one_sentence_and_in_the_report(tmp_path: Path) -> None:
    failed = run(tmp_path, "train.devices=tpu:grpc://127.0.0.1:9", "deploy.tpu_check=false")
    assert failed.code == 1
    assert failed.statuses() == {
        "ingest": "succeeded", "validate": "succeeded", "train": "failed", "evaluate": "skipped",
        "gate": "skipped", "push": "skipped",
    }  # fmt: skip
    assert "A TPU needs tensorflow-tpu 2.20.0" in failed.summary["error"]["problem"]
    assert "failed in train: " in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr
    assert "A TPU needs tensorflow-tpu 2.20.0" in (tmp_path / "latest" / "report.html").read_text()


def test_too_many_broken_files_end_with_exit_code_3_and_are_listed(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "pictures", 30, broken=True)
    rejected = run(tmp_path / "runs", f"ingest.source=images:{tmp_path / 'pictures'}", "ingest.max_quarantine_fraction=0.01")
    assert rejected.code == 3
    assert rejected.statuses()["ingest"] == "failed"
    assert set(rejected.statuses().values()) == {"failed", "skipped"}
    assert "max_quarantine_fraction" in rejected.summary["error"]["cure"] + rejected.summary["error"]["problem"]
    assert rejected.summary["exit_code"] == 3
    listed = [
        json.loads(line) for file in (tmp_path / "runs").rglob("quarantine.jsonl") for line in file.read_text().splitlines()
    ]
    assert listed


@pytest.mark.heavy
def test_a_damaged_artifact_in_the_cache_is_refused_and_the_suggested_fix_works(runs: Path, second: Outcome) -> None:
    dataset = Path(second.summary["artifacts"]["ingest"]["path"])
    shard = sorted(dataset.glob("train-*.tfrecord"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    refused = run(runs, "validate.min_deviation=2.0")  # validate runs again, on a dataset from the cache
    assert refused.code == 1
    assert f"{shard.name} does not match its digest." in refused.summary["error"]["problem"]
    assert refused.summary["error"]["cure"] == f"Remove {dataset} and run again."
    shutil.rmtree(dataset)
    repaired = run(runs, "validate.min_deviation=2.0")
    assert repaired.code == 0, repaired.stdout + repaired.stderr
    assert repaired.statuses()["ingest"] == "succeeded"
    assert repaired.summary["train"]["resumed_from_round"] == 40, "the data is the same, so the finished training must be found"
