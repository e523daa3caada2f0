"""The parts of tpu-first-hour that need no training; tests/pipeline/test_first_hour.py runs all of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.artifacts import read_manifest
from components.dataset.records import read_split
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.first_hour import stages
from components.tpu_check.first_hour.comparison import BFLOAT16, FLOAT32, METRICS, Trained, compared, unequal
from components.tpu_check.first_hour.dataset import write_discs
from components.tpu_check.first_hour.probe import pci_chips
from components.tpu_check.first_hour.stages import Hour, StageError
from components.tpu_check.report import TpuCheckSummary
from components.train import step
from components.train.devices.tpu_lock import tpu_devices
from components.train.progress import MetricsLine
from tests.support.command_line import run

NAMES = ("tpu", "cpu:1")


def trained(rounds: tuple[int, ...] = (10, 20, 30), **changes: Any) -> Trained:
    """Return results whose metrics are 2.0, except those that are given for a round as NAME_ROUND."""
    lines = [
        MetricsLine(round=each, images_seen=each, seconds=0.5, **{name: changes.get(f"{name}_{each}", 2.0) for name in METRICS})
        for each in rounds
    ]
    networks = ("generator", "critic", "ema_generator")
    arrays = {f"{name}/000/kernel": np.full(100, changes.get(name, 1.0), np.float32) for name in networks}
    return Trained(lines, arrays)


@pytest.fixture
def hour(tmp_path: Path) -> Hour:
    return Hour("cpu:1", tmp_path, TpuCheckConfig(), None)


def test_equal_trainings_have_no_problem() -> None:
    facts, problems = compared(trained(), trained(), FLOAT32, NAMES)
    assert problems == []
    assert facts["first line"] == "0.0e+00 apart, at most 1e-04"
    assert unequal(trained(), trained()) == []
    assert sorted(step.METRICS) == sorted(METRICS)


@pytest.mark.parametrize(
    ("bounds", "changes", "sentence"),
    [
        (
            FLOAT32,
            {"penalty_10": 2.001},
            "Round 10: penalty is 2.001 on tpu and 2 on cpu:1, 5.0e-04 of its largest value apart (at most 1e-04).",
        ),
        (FLOAT32, {"penalty_20": 2.1}, "Round 20: penalty is 2.1 on tpu and 2 on cpu:1, 5.0e-02 of its largest value apart"),
        (BFLOAT16, {"critic_loss_10": 2.1}, "Round 10: critic_loss is 2.1 on tpu"),
        (FLOAT32, {"critic_loss_30": float("nan")}, "Round 30: critic_loss is nan on tpu and 2 on cpu:1"),
        (FLOAT32, {"critic": 1.05}, "The weights of critic differ by 5.0e-02 of their norm (at most 2e-02)."),
        (FLOAT32, {"ema_generator": float("inf")}, "The weights of ema_generator differ by inf of their norm"),
        (FLOAT32, {"rounds": (10, 20)}, "tpu and cpu:1 have not logged the same rounds, or have other variables."),
    ],
)
def test_a_difference_is_named_with_its_numbers(bounds: Any, changes: dict[str, Any], sentence: str) -> None:
    _, problems = compared(trained(**changes), trained(), bounds, NAMES)
    assert problems[0].startswith(sentence)
    assert len(problems) == 1


def test_differences_within_the_bounds_and_the_bounds_of_bfloat16() -> None:
    assert compared(trained(penalty_10=2.0001, penalty_20=2.01, critic=1.01), trained(), FLOAT32, NAMES)[1] == []
    assert compared(trained(penalty_10=2.02, penalty_20=2.15, critic=1.09), trained(), BFLOAT16, NAMES)[1] == []


def test_many_differences_are_counted() -> None:
    _, problems = compared(trained(**{f"{name}_20": 3.0 for name in METRICS}), trained(), FLOAT32, NAMES)
    assert len(problems) == 6
    assert problems[-1] == "There are 1 more differences."


def test_a_resumed_training_must_be_equal_bit_for_bit() -> None:
    assert unequal(trained(penalty_20=np.nextafter(2.0, 3.0)), trained()) == [
        "Round 20: penalty is 2.0000000000000004, not 2.0."
    ]
    assert unequal(trained(critic=np.nextafter(np.float32(1), np.float32(2))), trained()) == [
        "critic/000/kernel differs by up to 1.2e-07."
    ]
    assert unequal(trained((10, 20)), trained()) == ["There are 2 lines of metrics, not 3."]


def test_the_images_are_the_same_each_time_and_a_dataset(tmp_path: Path) -> None:
    digests = [read_manifest(write_discs(tmp_path / name)[0], "dataset").files for name in ("one", "two")]
    assert digests[0] == digests[1]
    images = read_split(tmp_path / "one" / "dataset", "train")
    assert images.images.shape == (512, 16, 16, 1)
    assert set(images.labels.tolist()) == {0, 1}
    assert images.images.std() > 40
    read_manifest(tmp_path / "one" / "validation", "validation")


def test_chips_on_the_pci_bus(tmp_path: Path) -> None:
    assert pci_chips(tmp_path) == ""
    for index, (vendor, device) in enumerate([("0x1ae0", "0x0063")] * 4 + [("0x1ae0", "0x1234"), ("0x8086", "0x0063")]):
        folder = tmp_path / f"0000:00:0{index}.0"
        folder.mkdir()
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{device}\n")
    assert pci_chips(tmp_path) == "4 × v5e, 1 × 0x1234"


def test_a_process_over_its_time_limit_is_ended(tmp_path: Path) -> None:
    code = "import os, time; print('waiting.', flush=True); print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(StageError, match=r"It did not end within 1 s; its last output was: (\d+)\.") as caught:
        stages._run([sys.executable, "-c", code], tmp_path / "log.txt", 1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(caught.value).split()[-1].rstrip(".")), 0)


def test_a_process_that_fails_is_named_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"It ended with exit code 3: a sentence\. The whole output is in .*log\.txt"):
        stages._run([sys.executable, "-c", "print('a sentence.'); exit(3)"], tmp_path / "log.txt", 60)


def test_work_on_the_host_and_long_calls_are_problems(hour: Hour) -> None:
    folder = hour.folder / "bfloat16"
    checkpoint = folder / "work" / "checkpoints" / "key" / "round-00000020"
    checkpoint.mkdir(parents=True)
    np.savez(checkpoint / "state.npz", kernel=np.ones(3))
    (folder / "model").mkdir()
    lines = trained().lines[:2]

    def write(log: str, seconds: float) -> None:
        rows = [line.model_copy(update={"seconds": seconds}).model_dump_json() for line in lines]
        (folder / "model" / "metrics.jsonl").write_text("\n".join(rows))
        (folder / "log.txt").write_text(log)

    write("a line\n", 0.2)
    assert stages.calls(hour).problems == []
    write("a line\nAuto outside_compilation of op PrintV2\n", 20.0)
    found = stages.calls(hour)
    assert found.facts["outside compilation"].startswith("1 of 2 lines")
    assert found.problems[0] == ("1 lines of the log name outside compilation, such as: Auto outside_compilation of op PrintV2")
    assert found.problems[1].startswith("A host call takes 20 s, but a preempted machine stops after 30 s")


def test_a_stage_without_the_training_that_it_needs_fails(hour: Hour) -> None:
    for stage in (stages.calls, stages.sigterm):
        with pytest.raises(StageError, match=r"The training in .* has no results\. Look at .*log\.txt\."):
            stage(hour)


def test_a_speed_above_the_bound_is_a_problem() -> None:
    values = dict.fromkeys(TpuCheckSummary.model_fields, 1)
    bound = TpuCheckSummary.model_construct(
        **(values | {"topology": "v5e:2x4", "images_per_second_at_most": 406_218.0, "bound_by": "compute"})
    )
    text, problems = stages.beside(bound, 203_109.0)
    assert (text, problems) == ("at most 406,218 images/s (v5e:2x4, bound by compute): 50% of it", [])
    assert stages.beside(bound, 500_000.0)[1] == [
        "500,000 images/s are more than the bound of 406,218: one of the two is wrong."
    ]


@pytest.mark.skipif(bool(tpu_devices()), reason="this machine has a TPU")
def test_without_a_tpu_the_first_stage_fails_and_the_others_do_not_run(tmp_path: Path) -> None:
    out = tmp_path / "hour"
    code, printed = run("tpu-first-hour", str(out))
    assert code == 1
    report = json.loads((out / "first_hour.json").read_text())
    assert [stage["status"] for stage in report["stages"]] == ["failed", *["not run"] * 6]
    assert not report["passed"]
    assert report["stages"][0]["problems"][0].startswith('train.devices = "tpu", but there is no TPU on this machine')
    assert report["stages"][0]["facts"]["user"].startswith(f"{os.getuid()} in groups")
    assert "0 of 7 stages passed on tpu" in printed
    assert "| machine: user, device files, packages | failed |" in (out / "first_hour.md").read_text()
    assert run("tpu-first-hour", str(out)) == (1, f"{out} is not empty. Name a new folder for the report.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--devices", "cpu"], '--devices = \'cpu\': use "cpu:N" (N virtual devices), "gpu", "tpu" or "tpu:NAME"'),
        (["--tpu-check", "nowhere.json"], "nowhere.json is not a report of tpu-check --json. Write one, or leave"),
    ],
)
def test_wrong_options(options: list[str], sentence: str, tmp_path: Path) -> None:
    code, printed = run("tpu-first-hour", str(tmp_path / "hour"), *options)
    assert code == 2
    assert sentence in printed
    assert not (tmp_path / "hour").exists()
