"""benchmarks/time_to_quality: when a goal is reached, when snapshots are taken, and which trainings are reused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import time_to_quality
from benchmarks.quality import contender, train
from benchmarks.quality.contender import AfterCall, Images, UsedSeconds
from benchmarks.quality.prototype import dtype_for


def rows(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"seconds": seconds, "fid": fid} for seconds, fid in pairs]


def test_a_goal_is_reached_at_the_first_snapshot_that_is_not_worse() -> None:
    ours = rows((15, 40.0), (60, 10.0), (120, 2.5), (240, 3.0))
    assert time_to_quality.first_at_or_below(ours, 10.0) == 60
    assert time_to_quality.first_at_or_below(ours, 9.9) == 120
    assert time_to_quality.first_at_or_below(ours, 2.0) is None


def test_the_crossing_is_interpolated_on_logarithmic_axes() -> None:
    ours = rows((15, 40.0), (60, 10.0), (120, 2.5))
    assert time_to_quality.crossing(ours, 20.0) == 30.0  # halfway between the snapshots on both logarithmic axes
    assert time_to_quality.crossing(ours, 10.0) == 60.0
    assert time_to_quality.crossing(ours, 50.0) == 15
    assert time_to_quality.crossing(ours, 2.0) is None


@pytest.mark.parametrize(
    ("fid_at_90", "keras_seconds", "passed"), [(5.0, 1801.0, True), (7.0, 1801.0, False), (5.0, 30.0, None)]
)
def test_the_better_keras_setting_is_the_goal_and_a_short_trial_does_not_decide(
    fid_at_90: float, keras_seconds: float, passed: bool | None
) -> None:
    curves = {
        "ours": rows((30, 20.0), (89.5, fid_at_90), (180, 2.0)),
        "keras64": rows((900, 5.0), (keras_seconds, 6.0)),  # the last score counts, not the best
        "keras512": rows((keras_seconds, 60.0)),
    }
    row = time_to_quality.against("keras_30min", curves, time_to_quality.KERAS, 90)
    assert row["keras_30min_fid"] == 6.0
    assert row["ours_seconds_to_keras_30min"] == (180 if passed is False else 89.5)
    assert row["keras_30min_bar_passed"] is passed


class Clockwork:
    """A contender whose calls advance a fake clock by given seconds."""

    def __init__(self, seconds: Iterator[float]) -> None:
        self.settings = {"kind": "clockwork"}
        self.seconds, self.now, self.drawn_at = seconds, 0.0, []

    def train(self, after_call: AfterCall) -> None:
        for rounds, seconds in enumerate(self.seconds, start=1):
            self.now += seconds
            if after_call(rounds, 64 * rounds):
                return

    def draw(self, count: int, seed: int) -> Images:
        self.drawn_at.append(self.now)
        self.now += 1000.0  # must not count as training
        return np.zeros((count, 28, 28, 1), np.uint8)


@pytest.mark.parametrize(
    ("early", "expected"),
    [(False, [(15.0, 16.0), (30.0, 32.0), (40.0, 40.0)]), (True, [(15.0, 12.0), (30.0, 28.0), (40.0, 36.0)])],
)
def test_snapshots_are_after_the_mark_for_others_and_before_it_for_ours(
    early: bool, expected: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clockwork = Clockwork(iter([8.0] + [4.0] * 50))
    monkeypatch.setattr(contender, "_used", lambda: UsedSeconds(clockwork.now, 1.5 * clockwork.now, 1.7 * clockwork.now))
    monkeypatch.setattr(train, "SAMPLES", 64)
    recorder = train.Recorder(clockwork, tmp_path, [15.0, 30.0, 40.0], early)
    recorder.train()
    assert [(mark.mark, mark.seconds) for mark in recorder.marks] == expected
    assert {(mark.cores, mark.others_cores) for mark in recorder.marks} == {(1.5, 0.2)}
    assert sorted(file.name for file in tmp_path.glob("*.npy")) == ["00015.npy", "00030.npy", "00040.npy"]
    assert clockwork.drawn_at == [seconds + 1000.0 * index for index, (_, seconds) in enumerate(expected)]


def test_a_call_that_passes_several_marks_takes_one_snapshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clockwork = Clockwork(iter([20.0, 50.0]))
    monkeypatch.setattr(contender, "_used", lambda: UsedSeconds(clockwork.now, clockwork.now, clockwork.now))
    monkeypatch.setattr(train, "SAMPLES", 64)
    recorder = train.Recorder(clockwork, tmp_path, train.marks_until(70.0), early=False)
    recorder.train()
    assert [(mark.mark, mark.seconds) for mark in recorder.marks] == [(15.0, 20.0), (70.0, 70.0)]


def test_only_a_finished_training_of_the_same_seconds_is_reused(tmp_path: Path) -> None:
    assert not time_to_quality.trained(tmp_path, "keras64", 1800.0)
    (tmp_path / train.RECORD).write_text(json.dumps({"seconds": 1800.0, "settings": {}}))
    assert time_to_quality.trained(tmp_path, "keras64", 1800.0)
    assert not time_to_quality.trained(tmp_path, "keras64", 600.0)
    assert not time_to_quality.trained(tmp_path, "ours", 1800.0)  # another config than the current one


def test_bfloat16_is_used_only_if_the_cpu_multiplies_in_it() -> None:
    assert dtype_for({"avx2", "fma"}) == "float32"
    assert dtype_for({"avx2", "avx512_bf16"}) == "mixed_bfloat16"
    assert dtype_for({"avx512f", "amx_bf16"}) == "mixed_bfloat16"
