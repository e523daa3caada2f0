"""One thin KFP component for each step. The work is in components/, the wiring in graph.py."""

from collections.abc import Callable
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output, PipelineTaskFinalStatus

from components.common.errors import ConfigError

# The image contains this package, so nothing is installed when a step starts. targets/ replace the name by the deployed one;
# the local runner warns unless it contains "python".
IMAGE = "localhost/wgan-tpu-pipeline:python3.11"
# How the last command of KFP's shell script begins.
PYTHON, EXEC_PYTHON = "\n_KFP_RUNTIME=true python3 ", "\nexport _KFP_RUNTIME=true\nexec python3 "


def replace_shell(command: list[str]) -> list[str]:
    """Return the command of a KFP component with `exec`, so that Python replaces the shell and gets the platform's signals.

    Vertex AI and Docker signal only the first process of a container. A shell in that place ignores SIGTERM and does not
    forward it. Raises ConfigError unless the command has the form of kfp 2.17.0.
    """
    script = command[2] if len(command) == 4 and command[:2] == ["sh", "-ec"] else ""
    before, found, last = script.partition(PYTHON)
    if not found or "\n" in last.strip():
        problem = "This version of kfp starts steps by another command, with which they may not receive SIGTERM."
        raise ConfigError(problem, "Install kfp==2.17.0.")
    return [*command[:2], before + EXEC_PYTHON + last, command[3]]


def step(function: Callable[..., Any]) -> Any:
    """Return `function` as a KFP component that runs in an image of ours and receives signals."""
    component = dsl.component(function, base_image=IMAGE, install_kfp_package=False)
    container = component.component_spec.implementation.container
    container.command = replace_shell(container.command)
    return component


@step
def snapshot(
    run: str,
    target: str,
    job_id: str,
    job_name: str,
    resource_name: str,
    created_at: str,
    source: str,
    image_size: int,
    rounds: int,
    batch: int,
    seed: int,
    devices: str,
    publish: bool,
    overrides: list,  # type: ignore[type-arg] # KFP's type
) -> NamedTuple(  # type: ignore[valid-type]
    "Arguments",
    ingest_config=str,
    ingest_key=str,
    validate_config=str,
    validate_key=str,
    tpu_check_config=str,
    tpu_check_key=str,
    train_config=str,
    train_key=str,
    evaluate_config=str,
    evaluate_key=str,
    gate_config=str,
    gate_key=str,
    push_config=str,
    push_key=str,
):
    """Resolve the parameters of this run into the section and key of each step; a key of an earlier run is in the cache."""
    from pipeline.step_runner import PlatformRun, begin_run

    job = PlatformRun(job_id, job_name, resource_name, created_at)
    asked = {"source": source, "image_size": image_size, "rounds": rounds, "batch": batch, "seed": seed}
    return begin_run(run, target, job, {**asked, "devices": devices, "publish": publish}, overrides)


@step
def ingest(config: str, key: str, work_dir: str, dataset: Output[Dataset]) -> None:
    """Read, check, deduplicate, resize and split images."""
    from pipeline.step_runner import run_step

    run_step("ingest", config, key, work_dir, dataset)


@step
def validate(
    config: str,
    key: str,
    work_dir: str,
    dataset: Input[Dataset],
    validation: Output[Artifact],
    findings: Output[HTML],
) -> None:
    """Check whether the dataset is fit to train on."""
    from pipeline.step_runner import run_step

    run_step("validate", config, key, work_dir, validation, {"findings": findings}, dataset=dataset)


@step
def tpu_check(config: str, key: str, work_dir: str, dataset: Input[Dataset], program: Output[Artifact]) -> None:
    """Compile the training for its TPU, on a machine without one."""
    from pipeline.step_runner import run_step

    run_step("tpu_check", config, key, work_dir, program, dataset=dataset)


@step
def train(
    config: str,
    key: str,
    work_dir: str,
    dataset: Input[Dataset],
    validation: Input[Artifact],
    model: Output[Model],
    curves: Output[HTML],
) -> None:
    """Train the WGAN-GP, from the last checkpoint if there is one."""
    from pipeline.step_runner import run_step

    run_step("train", config, key, work_dir, model, {"curves": curves}, dataset=dataset, validation=validation)


@step
def evaluate(
    config: str,
    key: str,
    work_dir: str,
    dataset: Input[Dataset],
    model: Input[Model],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    scores: Output[Markdown],
) -> None:
    """Score samples of the model against real images."""
    from pipeline.step_runner import run_step

    displays = {"metrics": metrics, "scores": scores}
    run_step("evaluate", config, key, work_dir, evaluation, displays, dataset=dataset, model=model)


@step
def gate(
    config: str,
    key: str,
    work_dir: str,
    model: Input[Model],
    evaluation: Input[Artifact],
    validation: Input[Artifact],
    verdict: Output[Artifact],
    metrics: Output[Metrics],
    checks: Output[Markdown],
) -> None:
    """Judge whether the model may be published, beside the champion."""
    from pipeline.step_runner import run_step

    displays = {"metrics": metrics, "checks": checks}
    run_step("gate", config, key, work_dir, verdict, displays, model=model, evaluation=evaluation, validation=validation)


@step
def push(
    config: str,
    key: str,
    work_dir: str,
    model: Input[Model],
    evaluation: Input[Artifact],
    validation: Input[Artifact],
    verdict: Input[Artifact],
    decision: Output[Artifact],
    metrics: Output[Metrics],
    outcome: Output[Markdown],
) -> None:
    """Publish the model if its verdict says so, or record why not."""
    from pipeline.step_runner import run_step

    inputs = {"model": model, "evaluation": evaluation, "validation": validation, "verdict": verdict}
    run_step("push", config, key, work_dir, decision, {"metrics": metrics, "outcome": outcome}, **inputs)


@step
def report(
    run: str,
    job_id: str,
    job_name: str,
    resource_name: str,
    created_at: str,
    status: PipelineTaskFinalStatus,
    page: Output[HTML],
) -> None:
    """Write report.html and summary.json, also when a step failed."""
    from pipeline.step_runner import PlatformRun, write_run_report

    job = PlatformRun(job_id, job_name, resource_name, created_at)
    write_run_report(run, job, status.state, status.error_message or "", page)
