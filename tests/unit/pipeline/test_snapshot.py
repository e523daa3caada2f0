"""What a run on a platform finds when it begins: the keys of its steps, from what the source holds then."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from components.common.errors import ConfigError
from pipeline import snapshot, step_runner
from pipeline.arguments import describe_run
from pipeline.config import RunConfig, load_config, resolve_paths
from pipeline.targets.local import run
from pipeline.targets.spec import LOOKED_UP


def write(folder: Path, name: str, level: int = 100) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / name)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    write(tmp_path / "images", "a.png")
    return resolve_paths(load_config(None, [f"run.dir={tmp_path / 'runs'}", f"ingest.source=images:{tmp_path / 'images'}"]))


def described(config: RunConfig) -> str:
    """What a compiled pipeline holds of its run: no id, no time, no keys."""
    keys = dict.fromkeys(config.sections(), LOOKED_UP)
    return describe_run(config, keys, run_id="", started_at="", folder="").model_dump_json()


def test_the_keys_are_those_of_a_run_here(config: RunConfig) -> None:
    assert snapshot.take(config).keys == run.check_before_running(config)


def test_they_change_with_the_source_and_not_without(config: RunConfig, tmp_path: Path) -> None:
    before = snapshot.take(config)
    assert snapshot.take(config) == before
    write(tmp_path / "images", "b.png")
    after = snapshot.take(config)
    assert after.digest != before.digest
    assert not set(after.keys.values()) & set(before.keys.values())


def test_the_step_gives_each_key_by_its_name_and_leaves_them_for_the_report(config: RunConfig) -> None:
    keys = step_runner.run_snapshot(described(config), "job-1")
    assert keys._asdict() == {"tpu_check": "", **snapshot.take(config).keys}
    assert type(keys).__name__ == "Keys"
    kept = snapshot.kept(config.work_dir, "job-1")
    assert kept == snapshot.take(config)
    assert snapshot.kept(config.work_dir, "job-2") is None


def test_a_source_that_is_gone_is_ingests_failure_in_the_report(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "images").rmdir()
    with pytest.raises(SystemExit) as caught:
        step_runner.run_snapshot(described(config), "job-1")
    assert caught.value.code == ConfigError.exit_code
    assert capsys.readouterr().err.startswith("snapshot: ")
    (tmp_path / "report").mkdir()
    page = SimpleNamespace(path=str(tmp_path / "report" / "page"))
    step_runner.run_report(described(config), "job-1", "2026-01-01T00:00:00Z", "FAILED", "a task failed", page)
    summary = json.loads((tmp_path / "report" / "summary.json").read_bytes())
    assert (summary["run_id"], summary["status"], summary["exit_code"]) == ("job-1", "failed", 2)
    assert summary["error"]["step"] == "ingest"
    assert str(tmp_path / "images") in summary["error"]["problem"]


def test_without_a_snapshot_the_report_still_says_that_the_run_failed(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    page = SimpleNamespace(path=str(tmp_path / "report" / "page"))
    step_runner.run_report(described(config), "job-9", "2026-01-01T00:00:00Z", "FAILED", "the snapshot was killed", page)
    summary = json.loads((tmp_path / "report" / "summary.json").read_bytes())
    assert (summary["status"], summary["nothing_new"]) == ("failed", False)
    assert "the snapshot was killed" in summary["error"]["problem"]
