"""The keys of a run on a platform, from the content of the source when it begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from components.common import journal
from components.common.errors import ArtifactError, ConfigError
from components.ingest import run as ingest
from components.ingest.sources.location import FilePattern
from components.ingest.sources.readers import open_source
from pipeline import snapshot, step_runner
from pipeline.arguments import describe_run
from pipeline.config import RunConfig, load_config, resolve_paths
from pipeline.snapshot import SourceSnapshot, list_source, load_snapshot
from pipeline.targets.local import run
from pipeline.targets.spec import UNKNOWN_KEY


def write(folder: Path, name: str, level: int = 100) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / name)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    write(tmp_path / "images", "a.png")
    return resolve_paths(load_config(None, [f"run.dir={tmp_path / 'runs'}", f"ingest.source=images:{tmp_path / 'images'}"]))


def taken(config: RunConfig) -> SourceSnapshot:
    with list_source(config) as source:
        return snapshot.take_snapshot(config, source)


def described(config: RunConfig) -> str:
    """Return the description in a compiled pipeline, without id, time and keys."""
    keys = dict.fromkeys(config.sections(), UNKNOWN_KEY)
    return describe_run(config, keys, run_id="", started_at="", folder="").model_dump_json()


def test_the_keys_equal_those_of_a_local_run(config: RunConfig) -> None:
    assert taken(config).keys == run.check_before_running(config)


def test_the_keys_change_only_with_the_source(config: RunConfig, tmp_path: Path) -> None:
    before = taken(config)
    assert taken(config) == before
    write(tmp_path / "images", "b.png")
    after = taken(config)
    assert after.digest != before.digest
    assert not set(after.keys.values()) & set(before.keys.values())


def test_the_step_returns_the_keys_by_name_and_saves_them_for_the_report(config: RunConfig) -> None:
    keys = step_runner.find_step_keys(described(config), "job-1")
    assert keys._asdict() == {"tpu_check": "", **taken(config).keys}
    assert type(keys).__name__ == "Keys"
    assert load_snapshot(config.work_dir, "job-1") == taken(config)
    assert load_snapshot(config.work_dir, "job-2") is None


def test_a_missing_source_is_reported_as_failure_of_ingest(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "images").rmdir()
    with pytest.raises(SystemExit) as caught:
        step_runner.find_step_keys(described(config), "job-1")
    assert caught.value.code == ConfigError.exit_code
    assert capsys.readouterr().err.startswith("snapshot: ")
    (tmp_path / "report").mkdir()
    page = SimpleNamespace(path=str(tmp_path / "report" / "page"))
    step_runner.write_run_report(described(config), "job-1", "2026-01-01T00:00:00Z", "FAILED", "a task failed", page)
    summary = json.loads((tmp_path / "report" / "summary.json").read_bytes())
    assert (summary["run_id"], summary["status"], summary["exit_code"]) == ("job-1", "failed", 2)
    assert summary["error"]["step"] == "ingest"
    assert str(tmp_path / "images") in summary["error"]["problem"]


@pytest.mark.parametrize("source_exists", [True, False])
def test_a_work_dir_that_cannot_be_written_is_reported_in_one_line(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], source_exists: bool
) -> None:
    config.work_dir.parent.mkdir(parents=True)
    config.work_dir.write_text("a file in the place of the folder")
    if not source_exists:
        (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(SystemExit) as caught:
        step_runner.find_step_keys(described(config), "job-1")
    assert caught.value.code == ArtifactError.exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"snapshot: Cannot write {config.work_dir}/journal/snapshot-")
    assert said.endswith(": Not a directory. Free space or name a writable folder, for instance --set run.dir=DIR.\n")


def test_without_a_snapshot_the_report_has_the_failure_of_the_run(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    page = SimpleNamespace(path=str(tmp_path / "report" / "page"))
    step_runner.write_run_report(described(config), "job-9", "2026-01-01T00:00:00Z", "FAILED", "the snapshot was killed", page)
    summary = json.loads((tmp_path / "report" / "summary.json").read_bytes())
    assert (summary["status"], summary["nothing_new"]) == ("failed", False)
    assert "the snapshot was killed" in summary["error"]["problem"]


@pytest.mark.parametrize(
    ("state", "status"),
    [("SUCCEEDED", "succeeded"), ("COMPLETE", "succeeded"), ("FAILED", "failed"), ("RUNNING", "failed"), ("", "failed")],
)
def test_the_report_knows_the_states_of_every_platform(
    state: str, status: str, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubeflow Pipelines 2.17.0 calls a success COMPLETE, and a run whose driver failed RUNNING."""
    seen: list[str] = []

    def write_report(_: object, *, folder: Path, status: str, message: str) -> None:
        seen.append(status)
        (folder / "report.html").touch()

    monkeypatch.setattr("components.report.run.run", write_report)
    page = SimpleNamespace(path=str(tmp_path / "page"))
    step_runner.write_run_report(described(config), "job-1", "2026-01-01T00:00:00Z", state, "", page)
    assert seen == [status]


def test_a_run_lists_its_source_once(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest reads the listing that the keys were made from; a file that was added since belongs to the next run."""
    keys = taken(config).keys
    listing = journal.listing_file(config.work_dir, keys["ingest"])
    write(tmp_path / "images", "b.png")
    monkeypatch.setattr(FilePattern, "files", lambda _: pytest.fail("the source was listed again"))
    reader = open_source(config.ingest, listing)
    assert (reader.total, len(reader.chunks)) == (1, 1)
    summary = ingest.run(config.ingest, out=tmp_path / "dataset", work_dir=config.work_dir, listing=listing)
    assert (summary.read, summary.quarantined) == (1, 0)
    assert not listing.exists()


def test_a_listing_is_saved_only_for_an_ingest_that_has_not_run(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_known_dataset", lambda *_: "known")
    assert not journal.listing_file(config.work_dir, taken(config).keys["ingest"]).exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-4] + b"0000"])
def test_a_damaged_listing_is_an_error(config: RunConfig, damage: Callable[[bytes], bytes]) -> None:
    listing = journal.listing_file(config.work_dir, taken(config).keys["ingest"])
    listing.write_bytes(damage(listing.read_bytes()))
    with pytest.raises(ArtifactError, match=r"^The listing \S+ cannot be read: .*\. Remove \S+ and run again\."):
        open_source(config.ingest, listing)
