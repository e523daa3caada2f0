"""benchmarks/time_to_quality: when a goal is reached, when snapshots are taken, and which trainings are reused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import time_to_quality
from benchmarks.quality import contender, keras_example, ours, prototype, train
from benchmarks.quality.contender import AfterCall, Images, UsedSeconds
from components.common.artifacts import read_manifest
from tests.support.datasets.tiny_artifacts import write_dataset


def rows(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"seconds": seconds, "fid": fid} for seconds, fid in pairs]


def test_a_goal_is_reached_at_the_first_snapshot_that_is_not_worse() -> None:
    curve = rows((15, 40.0), (60, 10.0), (120, 2.5), (240, 3.0))
    assert time_to_quality.first_at_or_below(curve, 10.0) == 60
    assert time_to_quality.first_at_or_below(curve, 9.9) == 120
    assert time_to_quality.first_at_or_below(curve, 2.0) is None


def test_the_crossing_is_interpolated_on_logarithmic_axes() -> None:
    curve = rows((15, 40.0), (60, 10.0), (120, 2.5))
    assert time_to_quality.crossing(curve, 20.0) == 30.0  # halfway between the snapshots on both logarithmic axes
    assert time_to_quality.crossing(curve, 10.0) == 60.0
    assert time_to_quality.crossing(curve, 50.0) == 15
    assert time_to_quality.crossing(curve, 2.0) is None


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
    # Other programs take part of the cores: 4 s by the wall clock are 2 processor seconds on each of the two cores.
    monkeypatch.setattr(contender, "_used", lambda: UsedSeconds(2.0 * clockwork.now, 2.0 * clockwork.now, 3.0 * clockwork.now))
    monkeypatch.setattr(train, "cores", lambda: 2)
    recorder = train.Recorder(clockwork, tmp_path, [15.0, 30.0, 40.0], 64, early, {})
    recorder.train()
    assert [(mark.mark, mark.seconds) for mark in recorder.marks] == expected
    assert [mark.wall_seconds for mark in recorder.marks] == [2 * seconds for _, seconds in expected]
    assert {(mark.cores, mark.others_cores) for mark in recorder.marks} == {(1.0, 0.5)}
    assert sorted(file.name for file in tmp_path.glob("*.npy")) == ["00015.npy", "00030.npy", "00040.npy"]
    assert clockwork.drawn_at == [seconds + 1000.0 * index for index, (_, seconds) in enumerate(expected)]


def test_a_call_that_passes_several_marks_takes_one_snapshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clockwork = Clockwork(iter([20.0, 50.0]))
    monkeypatch.setattr(contender, "_used", lambda: UsedSeconds(clockwork.now, clockwork.now, clockwork.now))
    monkeypatch.setattr(train, "cores", lambda: 1)
    recorder = train.Recorder(clockwork, tmp_path, train.marks_until(70.0), 64, False, {"contender": "clockwork"})
    recorder.train()
    assert [(mark.mark, mark.seconds) for mark in recorder.marks] == [(15.0, 20.0), (70.0, 70.0)]
    record = json.loads((tmp_path / train.RECORD).read_text())
    assert (record["contender"], record["seconds"], len(record["marks"])) == ("clockwork", 70.0, 2)


def test_a_training_that_ends_before_the_last_mark_has_a_snapshot_of_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clockwork = Clockwork(iter([4.0] * 5))
    monkeypatch.setattr(contender, "_used", lambda: UsedSeconds(clockwork.now, clockwork.now, clockwork.now))
    monkeypatch.setattr(train, "cores", lambda: 1)
    recorder = train.Recorder(clockwork, tmp_path, [8.0, 60.0, 90.0], 64, False, {})
    recorder.train()
    found = [(mark.mark, mark.seconds, mark.rounds, mark.images_seen) for mark in recorder.marks]
    assert found == [(8.0, 8.0, 2, 128), (90.0, 20.0, 5, 320)]
    assert json.loads((tmp_path / train.RECORD).read_text())["seconds"] == 90.0


def test_only_a_training_of_the_same_seconds_images_and_settings_is_reused(tmp_path: Path) -> None:
    data, config = write_dataset(tmp_path / "data", train=20, held_out=10), time_to_quality.CONFIG
    digest = read_manifest(data, "dataset").digest

    def trained(name: str, seconds: float) -> bool:
        return time_to_quality.trained(tmp_path, name, seconds, data, config)

    def record(**changes: Any) -> None:
        (tmp_path / train.RECORD).write_text(json.dumps({"seconds": 1800.0, "dataset": digest, "settings": {}} | changes))

    assert not trained("keras64", 1800.0)
    record()
    assert trained("keras64", 1800.0)
    assert not trained("keras64", 600.0)
    assert not trained("ours", 1800.0)  # another config than the current one
    record(settings={**ours.settings(config), "precision": "float32"})
    assert trained("ours", 1800.0)
    record(dataset="another")
    assert not trained("keras64", 1800.0)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (12, 3)])
def test_the_networks_of_the_others_fit_the_images(size: int, channels: int) -> None:
    for generator, critic in (
        (keras_example.make_generator(size, channels), keras_example.make_critic(size, channels)),
        (prototype.make_generator(size, channels, "float32"), prototype.make_critic(size, channels, "float32")),
    ):
        assert generator.output_shape == critic.input_shape == (None, size, size, channels)
        assert critic.output_shape == (None, 1)


def test_the_example_keeps_its_own_sizes() -> None:
    assert keras_example.base_and_border(28) == (4, (2, 2))  # pads 28×28 to 32×32 and crops it back
    assert keras_example.base_and_border(32) == (4, (0, 0))
    assert keras_example.make_critic(28, 1).count_params() == keras_example.make_critic(32, 1).count_params()


@pytest.mark.heavy
def test_all_contenders_train_on_any_dataset_and_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "data", train=400, held_out=120)
    command = ["time_to_quality", "--dir", str(tmp_path), "--dataset", str(data), "--only", "ours,prototype,keras64"]
    command += ["--config", str(time_to_quality.ROOT / "configs/quickstart.toml"), "--seconds", "ours=2,prototype=2,keras64=2"]
    monkeypatch.setattr(sys, "argv", command)
    time_to_quality.main()
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(row["contenders"]) == {"ours", "prototype", "keras64"}
    assert row["extractor"]["samples"] == 120  # as many as there are held-out images
    for contender_row in row["contenders"].values():
        last = contender_row["marks"][-1]
        assert last["fid"] > row["training_images_against_held_out_images"]["fid"]
        assert last["seconds"] == pytest.approx(last["wall_seconds"] * last["cores"] / contender_row["cores"], rel=0.05)
    assert (tmp_path / "time_to_quality.png").is_file()
    assert np.load(tmp_path / "ours" / "00002.npy").shape == (120, 8, 8, 1)


def test_bfloat16_is_used_only_if_the_cpu_multiplies_in_it() -> None:
    assert prototype.dtype_for({"avx2", "fma"}) == "float32"
    assert prototype.dtype_for({"avx2", "avx512_bf16"}) == "mixed_bfloat16"
    assert prototype.dtype_for({"avx512f", "amx_bf16"}) == "mixed_bfloat16"
