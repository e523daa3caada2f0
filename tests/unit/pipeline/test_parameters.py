"""The parameters of a run: one table for KFP's form, the step `snapshot` and the command line; what a run cannot change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.common.errors import ConfigError
from pipeline import steps
from pipeline.config import RunConfig, load_config
from pipeline.parameters import (
    OVERRIDES,
    PARAMETERS,
    as_overrides,
    parameter_values,
    pipeline_parameters,
    resolve_run,
    runtime_parameters,
)
from tests.support.command_line import run

WHERE = {"kubeflow": ["run.dir=/mnt/wgan", "deploy.volume_claim=wgan"], "vertex": ["run.dir=/gcs/bucket/wgan"]}


def base(target: str = "kubeflow", *overrides: str) -> RunConfig:
    return load_config(None, [*WHERE[target], *overrides])


def resolved(*overrides: object, target: str = "kubeflow", **parameters: Any) -> RunConfig:
    return resolve_run(base(target), parameter_values(base(target)) | parameters, overrides, target)


def test_the_step_snapshot_has_the_parameters_of_the_table() -> None:
    names = [*(each.name for each in PARAMETERS), OVERRIDES]
    job = ("run", "target", "job_id", "job_name", "resource_name", "created_at")
    inputs = steps.snapshot.component_spec.inputs
    assert [name for name in inputs if name not in job] == names
    types = {str: "String", int: "Integer", bool: "Boolean", list: "List"}
    form = {each.name: types[each.annotation] for each in pipeline_parameters(base())}
    assert {name: inputs[name].type for name in names} == form


def test_without_changes_a_run_has_the_config_of_the_file() -> None:
    assert resolved().as_dict() == resolve_run(base(), {}, [], "kubeflow").as_dict()
    assert (resolved().train, resolved().ingest) == (base().train, base().ingest)


@pytest.mark.parametrize(
    ("parameters", "overrides", "expected"),
    [
        ({"rounds": 7, "batch": 16}, [], {"train.rounds": 7, "train.global_batch_size": 16}),
        ({"source": "tfds:mnist", "image_size": 28}, [], {"ingest.source": "tfds:mnist", "ingest.image_size": 28}),
        ({"source": 'images:/mnt/wgan/a "b"'}, [], {"ingest.source": 'images:/mnt/wgan/a "b"'}),
        ({"devices": "cpu:4", "seed": 3}, [], {"train.devices": "cpu:4", "train.seed": 3}),
        ({}, ["train.beta_1=0.5", "ingest.near_duplicates=2"], {"train.beta_1": 0.5, "ingest.near_duplicates": 2}),
        ({"rounds": 7}, ["train.rounds=9"], {"train.rounds": 9}),
        ({}, ["run.dir=/mnt/wgan", "deploy.cpu=2"], {"run.dir": "/mnt/wgan", "deploy.cpu": "2"}),
    ],
)
def test_parameters_and_overrides_change_the_config(
    parameters: dict[str, Any], overrides: list[str], expected: dict[str, Any]
) -> None:
    found = resolved(*overrides, **parameters).as_dict()
    assert {key: found[key.partition(".")[0]][key.partition(".")[2]] for key in expected} == expected


FIXED = "cannot be set for a run of a compiled pipeline, which was compiled with"
BAD = [
    ({"rounds": 0}, [], "The configuration (--set train.rounds=0) is invalid: train.rounds = 0: input should be greater than"),
    ({}, ["train.round=3"], "train.round: unknown key; did you mean rounds?"),
    ({}, [8.0], "--set 8.0 is not of the form section.key=value."),
    ({}, ["deploy.cpu=4"], f"deploy.cpu = '4' {FIXED} '2'. Compile it again with --set deploy.cpu=4."),
    (
        {},
        ["run.dir=/mnt/other"],
        f"run.dir = '/mnt/other' {FIXED} '/mnt/wgan'. Compile it again with --set run.dir=/mnt/other.",
    ),
    ({"devices": "tpu"}, [], f"train.devices = 'tpu' {FIXED} 'cpu:1'. Compile it again with --set train.devices=tpu."),
    ({"source": "images:/data"}, [], "ingest.source = 'images:/data' is not on the volume wgan, which is mounted at"),
]


@pytest.mark.parametrize(("parameters", "overrides", "sentence"), BAD)
def test_a_wrong_value_is_refused_in_one_line(parameters: dict[str, Any], overrides: list[object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(*overrides, **parameters)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_for_a_tpu_trains_on_a_tpu_only() -> None:
    compiled = base("vertex", "train.devices=tpu")
    assert resolve_run(compiled, {"devices": "tpu:mine"}, [], "vertex").train.devices == "tpu:mine"
    with pytest.raises(ConfigError, match=f"train.devices = 'cpu:1' {FIXED} 'tpu'"):
        resolve_run(compiled, {"devices": "cpu:1"}, [], "vertex")


def test_the_folders_of_vertex_are_checked_as_when_compiling() -> None:
    assert resolved(target="vertex", source="images:/gcs/other/in").ingest.source == "images:/gcs/other/in"
    with pytest.raises(ConfigError, match="is not in /gcs/BUCKET, and Vertex AI mounts nothing else"):
        resolved(target="vertex", source="images:/mnt/in")


def test_each_source_keeps_its_own_history() -> None:
    assert resolved().history == "/mnt/wgan/snapshots/digits"
    assert resolved(source="tfds:mnist").history.startswith("/mnt/wgan/snapshots/tfds-mnist-")


def test_overrides_become_typed_parameters_of_a_run_where_there_is_one() -> None:
    words = ["train.rounds=7", "train.seed = 0", "push.publish=false", "train.beta_1=0.5"]
    found = runtime_parameters(base(), words, "kubeflow")
    assert found == {"rounds": 7, "publish": False, "overrides": ["train.beta_1=0.5"]}
    others = found.pop("overrides")
    assert resolve_run(base(), found, others, "kubeflow") == resolve_run(base(), {}, words, "kubeflow")
    assert runtime_parameters(base(), [], "kubeflow") == {}


def test_the_command_line_has_an_option_for_each_parameter() -> None:
    options = ["--source", "tfds:mnist", "--image-size", "28", "--rounds", "7", "--batch", "32", "--seed", "3",
               "--devices", "cpu:2", "--no-publish"]  # fmt: skip
    code, output = run("run", "--dry-run", *options, "--set", "train.seed=4")
    assert code == 0, output
    found = json.loads(output.partition("\nPlan")[0])
    values = {each.name: found[each.section][each.key] for each in PARAMETERS}
    assert values == {
        "source": "tfds:mnist", "image_size": 28, "rounds": 7, "batch": 32, "seed": 4, "devices": "cpu:2", "publish": False
    }  # fmt: skip
    assert as_overrides(dict.fromkeys(values)) == []
    for command in (["run"], ["submit"], ["schedule", "create"]):
        code, output = run(*command, "--help")
        assert all(f"--{each.name.replace('_', '-')} " in output for each in PARAMETERS), command
