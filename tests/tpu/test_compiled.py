"""Programs that the TPU compiler compiles or refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.tpu_check import parity
from pipeline.cli import app
from tests.support.command_line import run_process
from tests.support.local_runs import run

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800), pytest.mark.usefixtures("tpu_compiler")]
SMALL = [
    "train.n_critic=2", "train.generator_channels=8", "train.critic_channels=8", "train.global_batch_size=64",
    "train.precision=bfloat16",
]  # fmt: skip
TOO_LARGE = ["train.global_batch_size=8388608", "train.n_critic=1"]


def tpu_check(work: Path, topology: str, *overrides: str, config: str = "quickstart") -> tuple[int, dict[str, Any]]:
    words = [word for override in (f"run.dir={work}", *overrides) for word in ("--set", override)]
    options = ["--topology", topology, "--json", "--images", "1437"]
    done = run_process("tpu-check", f"configs/{config}.toml", *options, *words)
    assert done.stdout, done.stderr
    return done.returncode, dict(json.loads(done.stdout))


@pytest.mark.parametrize(("topology", "chips"), [("v5e:2x4", 8), ("v5e:1x1", 1), ("v4:2x2x1", 4), ("v6e:2x4", 8)])
def test_a_round_compiles_to_one_all_reduce_an_update(topology: str, chips: int, tmp_path: Path) -> None:
    code, found = tpu_check(tmp_path, topology, *SMALL)
    assert code == 0, found
    assert (found["compiled"], found["chips"], found["rounds_a_call"]) == (True, chips, 50)
    assert found["updates_a_round"] == 3
    assert found["all_reduces_a_round"] == (3 if chips > 1 else 0)
    assert found["replicas"] == (2 * chips if topology.startswith("v4") else chips)
    assert found["bfloat16_convolutions"] == found["convolutions"] > 20
    assert found["host_transfers_in_a_call"] == 0
    assert 0 < found["peak_hbm_bytes"] < found["hbm_bytes"]
    assert 0 <= found["hbm_bytes_a_round"] <= found["bytes_a_round"]
    again, cached = tpu_check(tmp_path, topology, *SMALL)
    assert (again, cached["cached"]) == (0, True)
    assert {**cached, "cached": False} == found


def test_rounds_are_executed_and_train_as_on_the_cpu(tmp_path: Path) -> None:
    code, found = tpu_check(tmp_path, "v5e:2x2", *SMALL, "deploy.tpu_check_rounds=3", "train.penalty_every_rounds=2")
    assert code == 0, found
    assert [each["precision"] for each in found["executed"]] == ["float32", "bfloat16"]
    for each in found["executed"]:
        assert (each["rounds"], each["replicas"], each["global_batch_size"], each["critic_channels"]) == (3, 4, 8, 8)
        assert all(0 < found[0] < bound for found, bound in zip(each["differences"], each["bounds"], strict=False))


def test_a_program_that_differs_from_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "BOUNDS", {"float32": parity.Bounds(1e-12, 1.0, 1.0, by_variable=True)})
    words = [word for override in (f"run.dir={tmp_path}", *SMALL) for word in ("--set", override)]
    command = ["tpu-check", "configs/quickstart.toml", "--topology", "v5e:1x1", "--execute", "1", "--images", "1437", "--json"]
    done = CliRunner().invoke(app, [*command, *words], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert (done.exit_code, found["compiled"]) == (1, True)
    assert found["reason"].startswith("Executed on replicas, the program does not train as the CPU does: ")
    assert " of round 1 is " in found["reason"]


def test_a_batch_that_does_not_fit_is_refused_with_the_missing_memory(tmp_path: Path) -> None:
    code, found = tpu_check(tmp_path, "v5e:1x1", *SMALL, *TOO_LARGE)
    assert (code, found["compiled"]) == (1, False)
    assert found["reason"].startswith("The program needs ")
    assert " GB of HBM and a v5e chip has 16.9 GB: " in found["reason"]
    assert found["cure"].startswith("Lower train.global_batch_size (now 8388608, 8388608 images a chip) or the channels")


def test_a_program_that_is_too_large_ends_the_run_before_train(tmp_path: Path) -> None:
    # A remote TPU, because a local one would be checked for before the run.
    tpu = ["train.devices=tpu:grpc://127.0.0.1:9", "deploy.tpu_topology=v5e:1x1"]
    done = run(tmp_path / "runs", *SMALL, *TOO_LARGE, *tpu)
    assert done.code == 1, done.stdout + done.stderr
    statuses = done.statuses()
    assert list(statuses) == ["ingest", "validate", "tpu_check", "train", "evaluate", "gate", "push"]
    assert (statuses["tpu_check"], statuses["train"]) == ("failed", "skipped")
    assert done.summary["error"]["step"] == "tpu_check"
    assert "GB too much." in done.summary["error"]["problem"]
    assert "Lower train.global_batch_size" in (tmp_path / "runs" / "latest" / "report.html").read_text()
