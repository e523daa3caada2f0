"""`run --images` on a folder: one command, and the file that repeats it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.support.command_line import run_process
from tests.support.datasets.image_folder import write_digit_images
from tests.support.local_runs import latest_summary

SMALL = ["train.generator_channels=8", "train.critic_channels=8", "evaluate.samples=200", "evaluate.kid_subset_size=100"]


@pytest.mark.heavy
@pytest.mark.timeout(900)  # two runs; half a minute on idle cores
def test_a_folder_of_images_runs_and_its_file_repeats_the_run(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "images", 300)
    runs = tmp_path / "runs"
    overrides = [word for override in (f"run.dir={runs}", *SMALL) for word in ("--set", override)]
    done = run_process("run", "--images", str(tmp_path / "images"), "--minutes", "0.1", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Images      304 files; all looked at: 32×32 pixels")
    assert "4 of 304 files cannot be read and are left out" in done.stdout
    assert "Image size  32×32: the largest supported size" in done.stdout
    assert "Channels    1, grey" in done.stdout
    assert "minutes of training at" in done.stdout
    first = latest_summary(runs)
    assert (first["ingest"]["quarantined"], first["train"]["rounds"] >= 1) == (4, True)

    file = runs / first["run_id"] / "config.toml"
    assert f"Repeat   wgan-pipeline run {file}" in done.stdout
    assert file.read_text().startswith("# Images      304 files; all looked at")
    assert tomllib.loads(file.read_text())["train"]["generator_channels"] == 8
    again = run_process("run", str(file))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Nothing new: an earlier run had the same data, configuration and code." in again.stdout
    assert latest_summary(runs)["run_id"] != first["run_id"]


def test_a_dry_run_chooses_and_writes_nothing(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "images", 120, broken=False)
    overrides = ["--set", f"run.dir={tmp_path / 'runs'}", "--set", "train.rounds=30", "--set", "ingest.image_size=16"]
    done = run_process("run", "--images", str(tmp_path / "images"), "--dry-run", *overrides)
    assert done.returncode == 0, done.stderr
    assert "Image size  16, as you asked (ingest.image_size)" in done.stdout
    assert '"image_size": 16' in done.stdout
    assert "Plan (nothing was run or written)" in done.stdout
    assert not (tmp_path / "runs").exists()
