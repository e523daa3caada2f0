"""The pipeline's arguments: they survive KFP's local runner unchanged."""

from __future__ import annotations

import json

from pipeline.arguments import describe_run, pipeline_arguments
from pipeline.config import load_config
from pipeline.keys import step_keys


def test_arguments_survive_the_runner_that_replaces_python3() -> None:
    config = load_config(None, ["ingest.source=images:/opt/python3.11/pictures"])
    keys = step_keys(config, "f")
    description = describe_run(config, keys, run_id="r", started_at="2026-01-01T00:00:00+00:00", folder="/runs/r")
    arguments = pipeline_arguments(config, keys, description)
    assert not any("python3" in value for value in arguments.values())
    assert json.loads(arguments["ingest_config"])["source"] == "images:/opt/python3.11/pictures"
    assert json.loads(arguments["run"])["config"]["ingest"]["source"] == "images:/opt/python3.11/pictures"
    assert {name.removesuffix("_key") for name in arguments if name.endswith("_key")} == set(keys)


def test_work_dir_is_a_plain_string() -> None:
    config = load_config(None, ["run.dir=/runs"])
    keys = step_keys(config, "f")
    description = describe_run(config, keys, run_id="", started_at="", folder="")
    assert pipeline_arguments(config, keys, description)["work_dir"] == "/runs/.work"
