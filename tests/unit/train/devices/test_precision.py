"""precision = "auto", which does not change when a training resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.common.store import Folder
from components.train.config import TrainConfig
from components.train.devices import precision


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2", False), ("fpu avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("avx512_bf16x", False)],
)
def test_flags_of_the_processor(flags: str, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert precision.cpu_has_bfloat16(cpuinfo) is expected


def test_without_cpuinfo_there_is_no_bfloat16(tmp_path: Path) -> None:
    assert not precision.cpu_has_bfloat16(tmp_path / "absent")


def test_convolution_gain_is_a_ratio() -> None:
    assert 0.0 < precision.convolution_gain(repeats=1) < 100.0


@pytest.mark.parametrize(("has", "gain", "expected"), [(True, 1.9, True), (True, 0.6, False), (False, 9.0, False)])
def test_bfloat16_needs_both_the_flag_and_the_gain(
    has: bool, gain: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    monkeypatch.setattr(precision, "convolution_gain", lambda: gain)
    assert precision.bfloat16_is_faster("cpu:2") is expected
    assert precision.bfloat16_is_faster("tpu")
    assert not precision.bfloat16_is_faster("gpu")


def test_a_training_keeps_its_first_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_faster", lambda devices: devices == "tpu")
    assert precision.resolve(TrainConfig(devices="tpu"), Folder(tmp_path)).precision == "bfloat16"
    assert precision.resolve(TrainConfig(devices="cpu:1"), Folder(tmp_path)).precision == "bfloat16"
    assert precision.resolve(TrainConfig(precision="float32"), Folder(tmp_path)).precision == "float32"
