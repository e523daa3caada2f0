"""tpu-first-hour from end to end on virtual CPUs: all stages run, and the report says that no TPU was used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.tpu_check.first_hour import comparison
from tests.support.command_line import run_process

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1500)]


def test_all_stages_pass_on_virtual_cpus(tmp_path: Path) -> None:
    out = tmp_path / "hour"
    done = run_process("tpu-first-hour", str(out), "--devices", "cpu:2")
    report = json.loads((out / "first_hour.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert {stage["name"]: stage["status"] for stage in report["stages"]} == dict.fromkeys(
        ("machine", "replicas", "float32", "bfloat16", "calls", "sigterm", "throughput"), "passed"
    )
    assert report["passed"]
    assert not report["tpu"]
    facts = {stage["name"]: stage["facts"] for stage in report["stages"]}
    assert facts["replicas"]["replicas"] == "2"
    assert facts["sigterm"]["compared"].endswith("equal, bit for bit")
    assert facts["bfloat16"]["line by line"] != facts["float32"]["line by line"]
    page = (out / "first_hour.md").read_text()
    assert "**No TPU was used**: with cpu:2 this only shows that the command works." in page
    # A float32 training whose layers compute in bfloat16, as a TPU would by default, is noticed.
    float32, bfloat16 = (comparison.read_trained(out / name) for name in ("float32-cpu", "bfloat16-cpu"))
    _, problems = comparison.compared(bfloat16, float32, comparison.FLOAT32, ("bfloat16", "float32"))
    assert problems[0].startswith("Round 10: "), problems
