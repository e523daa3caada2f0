"""The arguments of the steps: they survive KFP's local runner unchanged."""

from __future__ import annotations

import json

from pipeline.arguments import as_argument, describe_run, step_arguments
from pipeline.config import load_config
from pipeline.keys import step_keys


def test_arguments_survive_the_runner_that_replaces_python3() -> None:
    config = load_config(None, ["ingest.source=images:/opt/python3.11/pictures"])
    keys = step_keys(config, "f")
    description = describe_run(config, keys, run_id="r", started_at="2026-01-01T00:00:00+00:00", folder="/runs/r")
    arguments = {"run": as_argument(description), **step_arguments(config, keys)}
    assert not any("python3" in value for value in arguments.values())
    assert json.loads(arguments["ingest_config"])["source"] == "images:/opt/python3.11/pictures"
    assert json.loads(arguments["run"])["config"]["ingest"]["source"] == "images:/opt/python3.11/pictures"
    assert {name.removesuffix("_key") for name in arguments if name.endswith("_key")} == set(keys)
