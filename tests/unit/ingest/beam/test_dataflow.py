"""A job on Google Cloud Dataflow that could not work is refused before it is submitted; other runners are unaffected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError
from components.ingest.beam import dataflow
from components.ingest.beam.runner import new_pipeline, run_pipeline
from components.ingest.config import LOCAL_RUNNER, IngestConfig
from components.ingest.run import run

CLOUD = ("--project=some-project", "--region=europe-west4", "--temp_location=gs://some-bucket/tmp")
IMAGE = "--sdk_container_image=some/image@sha256:0"
RUNNERS = (
    "DataflowRunner",
    "dataflowrunner",
    "TestDataflowRunner",
    "apache_beam.runners.dataflow.dataflow_runner.DataflowRunner",
)


def config(*options: str, **changed: Any) -> IngestConfig:
    made = {"source": "digits", "shared_folder": "gs://some-bucket/ingest"} | changed
    return IngestConfig(**made, beam_options=("--runner=DataflowRunner", *CLOUD, *options))


@pytest.mark.parametrize("runner", RUNNERS)
def test_dataflow_is_recognised_by_all_of_its_names(runner: str) -> None:
    assert dataflow.is_named((f"--runner={runner}", *CLOUD))
    assert not dataflow.is_named((f"--runner={runner}", LOCAL_RUNNER))  # the last one counts, as for Beam


def test_without_a_shared_folder_nothing_is_submitted_or_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        run(config(IMAGE, shared_folder=""), out=tmp_path / "dataset")
    assert str(refused.value) == (
        "ingest.beam_options names DataflowRunner, whose workers cannot see the folder that this process reads and writes."
        " Set ingest.shared_folder to a URL such as gs://BUCKET/ingest (docs/operations.md)."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["images:/data", "images:file:///data", "tfds:mnist"])
def test_source_that_workers_cannot_see(source: str) -> None:
    with pytest.raises(ConfigError, match=f'whose workers cannot see ingest.source = "{source}"'):
        dataflow.complete(config(IMAGE, source=source), "k")


def test_missing_container_image() -> None:
    with pytest.raises(ConfigError, match="no container image with this program for its workers"):
        dataflow.complete(config(), "k")


def test_missing_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataflow, "CLIENT", "google.cloud.nothing_of_that_name")
    with pytest.raises(ConfigError, match=r"whose client is not installed\. Install the extra: wgan-tpu-pipeline\[dataflow\]"):
        dataflow.complete(config(IMAGE), "k")


def test_job_gets_a_name_unless_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataflow, "CLIENT", "google.cloud")
    assert "--job_name=wgan-ingest-k" in dataflow.complete(config(IMAGE), "k")
    assert "--job_name=wgan-ingest-k" not in dataflow.complete(config(IMAGE, "--job_name=mine"), "k")


def test_error_of_another_step_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^validate\.beam_options names DataflowRunner, which this step cannot use"):
        run_pipeline(("--runner=DataflowRunner",), lambda pipeline: None, key="validate.beam_options")


def test_shared_folder_must_be_a_url() -> None:
    with pytest.raises(ValueError, match="is not a URL such as gs://BUCKET/ingest"):
        IngestConfig(shared_folder="/mnt/shared")


@pytest.mark.parametrize("options", [(LOCAL_RUNNER,), (LOCAL_RUNNER, *CLOUD), ("--runner=FlinkRunner",)])
def test_other_runners_are_accepted(options: tuple[str, ...]) -> None:
    assert new_pipeline(options).runner is not None
