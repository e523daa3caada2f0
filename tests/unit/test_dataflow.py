"""Google Cloud Dataflow is refused before anything is submitted; other runners are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ConfigError
from components.ingest.config import LOCAL_RUNNER, IngestConfig
from components.ingest.run import run
from components.ingest.runner import new_pipeline

CLOUD = ("--project=some-project", "--region=europe-west4", "--temp_location=gs://some-bucket/tmp")


@pytest.mark.parametrize(
    "runner",
    ["DataflowRunner", "dataflowrunner", "TestDataflowRunner", "apache_beam.runners.dataflow.dataflow_runner.DataflowRunner"],
)
def test_dataflow_is_refused_in_one_sentence(runner: str) -> None:
    with pytest.raises(ConfigError) as refused:
        new_pipeline((f"--runner={runner}", *CLOUD))
    assert str(refused.value) == (
        f"ingest.beam_options names {runner}, whose workers cannot see the folder that this process reads and writes."
        " Use a runner whose workers share that folder, such as Flink (docs/operations.md)."
    )


def test_an_ingest_on_dataflow_leaves_nothing_behind(tmp_path: Path) -> None:
    config = IngestConfig(source="digits", beam_options=("--runner=DataflowRunner", *CLOUD))
    with pytest.raises(ConfigError, match="names DataflowRunner, whose workers cannot see the folder"):
        run(config, out=tmp_path / "dataset")
    assert not list(tmp_path.iterdir())


def test_the_key_that_is_wrong_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^validate\.beam_options names DataflowRunner"):
        new_pipeline(("--runner=DataflowRunner",), "validate.beam_options")


@pytest.mark.parametrize("options", [(LOCAL_RUNNER,), (LOCAL_RUNNER, *CLOUD), ("--runner=FlinkRunner",)])
def test_other_runners_are_taken(options: tuple[str, ...]) -> None:
    assert new_pipeline(options).runner is not None
