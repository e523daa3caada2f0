"""The keys of a run on a platform, from the content of the source when it begins."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.common import journal
from components.common.errors import ArtifactError, ConfigError
from components.ingest.sources.location import FilePattern
from components.ingest.sources.readers import open_source
from pipeline import snapshot, step_runner
from pipeline.arguments import describe_run, step_arguments
from pipeline.config import RunConfig, load_config, override_config, resolve_paths, with_folders
from pipeline.parameters import parameter_values
from pipeline.snapshot import list_source, load_run
from pipeline.step_runner import PlatformRun
from pipeline.targets.local import run
from pipeline.targets.spec import UNKNOWN_KEY
from tests.support.command_line import run as run_command

STARTED, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00.000+00:00"
JOB = PlatformRun("60bbdf74-201e-4e65-aaca-88b37aff0d55", "run-20261124-033629-4d9184", "wgan-tpu-pipeline-6r5nl", STARTED)


def write(folder: Path, name: str, level: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / name)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    write(tmp_path / "runs" / "images", "a.png")
    images = f"ingest.source=images:{tmp_path / 'runs' / 'images'}"
    return resolve_paths(load_config(None, [f"run.dir={tmp_path / 'runs'}", "deploy.volume_claim=wgan", images]))


def taken(config: RunConfig) -> dict[str, str]:
    with list_source(config) as source:
        return snapshot.take_snapshot(config, source)


def begin(config: RunConfig, job_id: str, *overrides: str, **parameters: Any) -> dict[str, str]:
    """Run the step snapshot; return its outputs by name."""
    asked = parameter_values(config) | parameters
    job = JOB._replace(id=job_id)
    return dict(step_runner.begin_run(described(config), "kubeflow", job, asked, overrides)._asdict())


def described(config: RunConfig) -> str:
    """Return the description in a compiled pipeline, without id, time and keys."""
    keys = dict.fromkeys(config.sections(), UNKNOWN_KEY)
    return describe_run(config, keys, run_id="", started_at="", folder="").model_dump_json()


def written(
    config: RunConfig, tmp_path: Path, job: PlatformRun, state: str, folder: Path | None = None, message: str = ""
) -> dict[str, Any]:
    """Write the report of a run on a platform; return its summary, from the newest folder of a run or from `folder`."""
    (tmp_path / "report").mkdir(exist_ok=True)
    page = SimpleNamespace(path=str(tmp_path / "report" / "page"))
    step_runner.write_run_report(described(config), job, state, message, page)
    found = [folder / "summary.json"] if folder else (tmp_path / "runs").glob("*/summary.json")
    return dict(json.loads(max(found, key=lambda file: file.stat().st_mtime_ns).read_bytes()))


def test_the_keys_equal_those_of_a_local_run(config: RunConfig) -> None:
    assert taken(config) == run.check_before_running(config)


def test_a_local_run_needs_a_folder() -> None:
    with pytest.raises(ConfigError) as caught:
        run.check_before_running(resolve_paths(load_config(None, ["run.dir=s3://bucket/wgan"])))
    problem = "run.dir = 's3://bucket/wgan' is a URL, but the steps of a local run exchange files in a folder."
    cure = "Use a folder for run.dir; run.work_dir, push.registry and validate.history may be URLs."
    assert str(caught.value) == f"{problem} {cure}"


def test_the_step_returns_section_and_key_of_each_step_and_saves_them_for_the_report(config: RunConfig) -> None:
    found = begin(config, "job-1")
    assert found == {"tpu_check_config": "", "tpu_check_key": "", **step_arguments(config, taken(config))}
    saved = load_run(str(config.work_dir), "job-1")
    assert saved
    assert (saved.config, saved.keys) == (config.as_dict(), taken(config))
    assert load_run(str(config.work_dir), "job-2") is None


def test_the_steps_get_what_the_parameters_and_overrides_say(config: RunConfig, tmp_path: Path) -> None:
    """Another source has another history; the report shows the config of the run and not that of the file."""
    write(tmp_path / "runs" / "other", "a.png")
    source = f"images:{tmp_path / 'runs' / 'other'}"
    base = load_config(None, [f"run.dir={tmp_path / 'runs'}", "deploy.volume_claim=wgan"])
    found = begin(base, JOB.id, "train.beta_1=0.5", "train.rounds=9", source=source, rounds=7)
    sections = {step: json.loads(found[f"{step}_config"]) for step in ("ingest", "validate", "train")}
    expected = with_folders(override_config(base, [f"ingest.source={source}"]))
    assert (sections["ingest"]["source"], sections["validate"]["history"]) == (source, expected.history)
    assert (sections["train"]["beta_1"], sections["train"]["rounds"]) == (0.5, 9), "an override wins"
    written(config, tmp_path, JOB, "FAILED")
    shown = json.loads((tmp_path / "runs" / JOB.job_name / "config.json").read_bytes())
    assert {step: shown[step] for step in sections} == sections


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.round=3", "The configuration (--set train.round=3) is invalid: train.round: unknown key; did you mean rounds?"),
        ("deploy.cpu=4", "deploy.cpu = '4' cannot be set for a run of a compiled pipeline, which was compiled with '2'."),
    ],
)
def test_a_wrong_override_ends_the_run_in_its_first_step_and_is_in_the_report(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, problem: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        begin(config, JOB.id, override)
    assert caught.value.code == ConfigError.exit_code
    assert capsys.readouterr().err.startswith(f"snapshot: {problem}")
    summary = written(config, tmp_path, JOB, "FAILED")
    assert (summary["status"], summary["exit_code"]) == ("failed", 2)
    assert (summary["error"]["step"], summary["error"]["problem"]) == ("snapshot", problem)
    assert {step: each["status"] for step, each in summary["steps"].items()} == {
        "snapshot": "failed",
        **dict.fromkeys(config.sections(), "skipped"),
    }
    page = html.unescape((tmp_path / "report" / "page").read_text())
    assert "snapshot failed" in page
    assert problem in page


@pytest.mark.parametrize("source_exists", [True, False])
def test_a_work_dir_that_cannot_be_written_is_reported_in_one_line(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], source_exists: bool
) -> None:
    Path(config.work_dir).parent.mkdir(parents=True, exist_ok=True)
    Path(config.work_dir).write_text("a file in the place of the folder")
    if not source_exists:
        (tmp_path / "runs" / "images" / "a.png").unlink()
    with pytest.raises(SystemExit) as caught:
        begin(config, "job-1")
    assert caught.value.code == ArtifactError.exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"snapshot: Cannot write {config.work_dir}/journal/run-")
    assert said.endswith(": Not a directory. Free space or name a writable folder, for instance --set run.dir=DIR.\n")


@pytest.mark.parametrize("on_kubernetes", [True, False])
def test_kubernetes_gets_the_sentence_of_a_step_that_failed(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_kubernetes: bool
) -> None:
    shutil.rmtree(tmp_path / "runs" / "images")
    log = tmp_path / "termination-log"
    if on_kubernetes:
        log.touch()
    monkeypatch.setattr(step_runner, "TERMINATION_LOG", log)
    with pytest.raises(SystemExit):
        begin(config, JOB.id)
    summary = written(config, tmp_path, JOB, "FAILED")
    assert (summary["exit_code"], summary["error"]["step"]) == (2, "snapshot")
    assert log.exists() == on_kubernetes
    assert not on_kubernetes or str(tmp_path / "runs" / "images") in log.read_text()


def test_without_a_snapshot_the_report_has_the_failure_of_the_run(config: RunConfig, tmp_path: Path) -> None:
    summary = written(config, tmp_path, JOB, "FAILED", message="the snapshot was killed")
    assert (summary["status"], summary["nothing_new"]) == ("failed", False)
    assert "the snapshot was killed" in summary["error"]["problem"]


SCHEDULED = PlatformRun("60bbdf74-201e-4e65-aaca-88b37aff0d55", "", "every3lrcmn-1-2986495537", STARTED)


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (JOB, "run-20261124-033629-4d9184"),
        (SCHEDULED, "every3lrcmn-1-2986495537"),
        (PlatformRun("7", "", "projects/1/locations/europe-west4/pipelineJobs/run-1", STARTED), "run-1"),
        (PlatformRun("7", "", "", STARTED), "7"),
    ],
)
def test_every_kind_of_run_has_a_name(job: PlatformRun, name: str) -> None:
    """Kubeflow leaves the job's name of a scheduled run empty."""
    assert job.name == name


@pytest.mark.parametrize(
    ("state", "outcomes", "status", "note"),
    [
        ("COMPLETE", "succeeded", "succeeded", ""),
        ("SUCCEEDED", "succeeded", "succeeded", ""),
        ("RUNNING", "succeeded", "succeeded", "Every step recorded success, but the pipeline's runner reported RUNNING: "),
        ("FAILED", "succeeded", "succeeded", "Every step recorded success, but the pipeline's runner reported FAILED: "),
        ("COMPLETE", "failed", "failed", ""),
        ("FAILED", "failed", "failed", ""),
        ("RUNNING", "missing", "failed", ""),
        ("COMPLETE", "missing", "failed", ""),
    ],
)
def test_what_the_steps_recorded_decides(
    config: RunConfig, tmp_path: Path, state: str, outcomes: str, status: str, note: str
) -> None:
    """Kubeflow Pipelines 2.17.0 calls a success COMPLETE, and a run whose driver failed RUNNING; it never gives a reason."""
    begin(config, JOB.id)
    keys = taken(config)
    for step in list(config.sections())[: None if outcomes != "missing" else -1]:
        record = journal.StepRecord(step=step, key=keys[step], state="succeeded", pid=1, started_at=LATER)
        if outcomes == "failed" and step == "push":
            record = record.model_copy(update={"state": "failed"})
        (Path(config.work_dir) / "journal" / f"{step}-{keys[step][:24]}.json").write_text(record.model_dump_json())
    summary = written(config, tmp_path, JOB, state)
    assert (summary["status"], summary["exit_code"]) == (status, status == "failed")
    assert summary["note"].startswith(note)
    assert bool(summary["note"]) == bool(note)
    page = (tmp_path / "report" / "page").read_text()
    assert summary["note"] in html.unescape(page)
    if outcomes == "missing":
        assert summary["error"]["problem"].startswith(
            "The run ended early: no step recorded an error, and there is no record of"
        )


def test_the_report_of_a_platform_is_where_runs_finds_it(config: RunConfig, tmp_path: Path) -> None:
    asked = parameter_values(config)
    step_runner.begin_run(described(config), "kubeflow", SCHEDULED, asked, [])
    _, output = run_command("runs", "--runs-dir", str(tmp_path / "runs"))
    assert re.search(r"every3lrcmn-1-2986495537 +running or killed", output), "watch finds it while it goes on"
    code, output = run_command("report", SCHEDULED.name, "--runs-dir", str(tmp_path / "runs"))
    sentence = f"Run {SCHEDULED.name} has no report: it is still running, or was killed before its end. Watch it: "
    assert (code, output) == (0, f"{sentence}wgan-pipeline watch {SCHEDULED.name} --runs-dir {tmp_path / 'runs'}\n")
    written(config, tmp_path, SCHEDULED, "RUNNING")
    assert "run <code>every3lrcmn-1-2986495537</code>" in (tmp_path / "report" / "page").read_text()
    runs = tmp_path / "runs"
    folder = runs / "every3lrcmn-1-2986495537"
    assert {file.name for file in folder.iterdir()} == {"config.json", "run.json", "summary.json", "report.html"}
    assert json.loads((folder / "run.json").read_bytes())["folder"] == str(folder)
    code, output = run_command("runs", "--runs-dir", str(runs))
    assert code == 0, output
    assert re.search(r"every3lrcmn-1-2986495537 +failed", output)
    code, output = run_command("report", folder.name, "--runs-dir", str(runs))
    assert code == 0, output
    assert str(folder / "report.html") in output
    assert "run.log" not in output, "the logs stay on the platform"


def test_two_runs_never_share_a_folder(config: RunConfig, tmp_path: Path) -> None:
    """Kubeflow does not ask for unique names, and a name may be that of a folder in run.dir, or no name for a folder."""
    for job in [JOB, JOB, JOB._replace(id="0ther-id", created_at=LATER), JOB._replace(job_name="registry"),
                JOB._replace(job_name="../../Clone of my run"), JOB._replace(job_name="..")]:  # fmt: skip
        (tmp_path / "runs" / "registry").mkdir(parents=True, exist_ok=True)
        written(config, tmp_path, job, "COMPLETE")
    name, clone = JOB.job_name, "Clone-of-my-run"
    expected = {name, f"{name}-0ther-id", f"registry-{JOB.id[:8]}", clone, JOB.id}
    assert {file.parent.name for file in (tmp_path / "runs").glob("*/summary.json")} == expected
    assert not list((tmp_path / "runs" / "registry").iterdir())


def test_each_run_of_a_schedule_has_its_own_snapshot(config: RunConfig, tmp_path: Path) -> None:
    begin(config, SCHEDULED.id)
    first = load_run(str(config.work_dir), SCHEDULED.id)
    write(tmp_path / "runs" / "images", "b.png")
    begin(config, "the-next-night")
    assert load_run(str(config.work_dir), SCHEDULED.id) == first
    second = load_run(str(config.work_dir), "the-next-night")
    assert first
    assert second
    assert second.keys == taken(config) != first.keys


def test_a_report_reaches_the_platform_though_run_dir_cannot_be_written(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_text("a file in the place of the folder")
    summary = written(config, tmp_path, JOB, "FAILED", tmp_path / "report")
    assert summary["status"] == "failed"
    assert capsys.readouterr().err.startswith(f"report: Cannot write {tmp_path}/runs/{JOB.job_name}/config.json")


def test_a_report_reaches_the_platform_though_its_page_cannot_be_written(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a volume that filled up while the run went on."""
    folder = tmp_path / "runs" / JOB.job_name
    (folder / "report.html").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"started_at": JOB.created_at}))
    assert written(config, tmp_path, JOB, "FAILED", tmp_path / "report")["status"] == "failed"
    assert capsys.readouterr().err.startswith(f"report: Cannot write {folder}/report.html")


def test_a_run_lists_its_source_once(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest reads the listing that the keys were made from; a file that was added since belongs to the next run."""
    keys = taken(config)
    listing = Path(config.work_dir) / journal.listing_name(keys["ingest"])
    write(tmp_path / "runs" / "images", "b.png")
    monkeypatch.setattr(FilePattern, "files", lambda _: pytest.fail("the source was listed again"))
    reader = open_source(config.ingest, listing)
    assert (reader.total, len(reader.chunks)) == (1, 1)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    out = SimpleNamespace(path=str(tmp_path / "dataset"), metadata={})
    step_runner.run_step("ingest", config.ingest.model_dump_json(), keys["ingest"], config.work_dir, out)
    assert (out.metadata["read"], out.metadata["quarantined"]) == ("1", "0")
    assert not listing.exists()


def test_a_listing_is_saved_only_for_an_ingest_that_has_not_run(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_known_dataset", lambda *_: "known")
    assert not (Path(config.work_dir) / journal.listing_name(taken(config)["ingest"])).exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-4] + b"0000"])
def test_a_damaged_listing_is_an_error(config: RunConfig, damage: Callable[[bytes], bytes]) -> None:
    listing = Path(config.work_dir) / journal.listing_name(taken(config)["ingest"])
    listing.write_bytes(damage(listing.read_bytes()))
    with pytest.raises(ArtifactError, match=r"^The listing \S+ cannot be read: .*\. Remove \S+ and run again\."):
        open_source(config.ingest, listing)
