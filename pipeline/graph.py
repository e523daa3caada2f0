"""The pipeline: wiring only. A step's decision is in its artifact, where the next step reads it (decisions 0003 and 0020)."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kfp import dsl

from pipeline import steps
from pipeline.config import RunConfig

NAME = "wgan-tpu-pipeline"
PlaceTask = Callable[[dsl.PipelineTask, str], None]
Values = Mapping[str, Any]
FindArguments = Callable[[Values, PlaceTask, Values], Values]
Checks = Mapping[str, Callable[..., dsl.PipelineTask]]


def known(arguments: Values) -> FindArguments:
    """Return a function that returns these arguments of the steps: the caller has resolved the config and read the source."""
    return lambda parameters, place, job: arguments  # noqa: ARG005


def found_by_snapshot(run: str, target: str) -> FindArguments:
    """Return a function that adds the step `snapshot`, which finds the arguments from the parameters when the run begins."""

    def find(parameters: Values, place: PlaceTask, job: Values) -> Values:
        snapshot = steps.snapshot(run=run, target=target, **job, **parameters)
        snapshot.set_caching_options(False)
        place(snapshot, "snapshot")
        found: Values = snapshot.outputs
        return found

    return find


def make_pipeline(
    place: PlaceTask,
    before_train: Checks,
    find: FindArguments,
    run: str,
    work_dir: str,
    parameters: Sequence[inspect.Parameter] = (),
    docstring: str = "",
    *,
    created_at: str = "",
    resource_name: str = "",
    train_step: Callable[..., dsl.PipelineTask] = steps.train,
) -> Any:
    """Return the @dsl.pipeline. `place(task, step)` sets where each task runs, which depends on the target.

    `before_train` are the steps that must succeed before train (checks_before_train). `find` returns the section and key of
    each step (arguments.step_arguments): it is `known`, or `found_by_snapshot` if parameters and source are unknown until the
    run begins. `run` describes the run to the report (arguments.describe_run), `work_dir` is its folder of checkpoints and
    journal, and `parameters` and `docstring` are the signature of the pipeline.
    `created_at` and `resource_name` are the platform's placeholders for the start and a name of the run; a local run has both
    in `run`, and KFP's local runner fails on the latter. `train_step` has the parameters of steps.train.
    """

    def wgan_pipeline(*channels: Any) -> None:
        job = {"job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER, "job_name": dsl.PIPELINE_JOB_NAME_PLACEHOLDER}
        job |= {"resource_name": resource_name, "created_at": created_at}
        report = steps.report(run=run, **job)
        report.set_caching_options(False)
        with dsl.ExitHandler(report, name="pipeline"):
            found = find({channel.name: channel for channel in channels}, place, job)

            def arguments(step: str) -> dict[str, Any]:
                return {"config": found[f"{step}_config"], "key": found[f"{step}_key"], "work_dir": work_dir}

            ingest = steps.ingest(**arguments("ingest"))
            dataset = ingest.outputs["dataset"]
            validate = steps.validate(**arguments("validate"), dataset=dataset)
            validation = validate.outputs["validation"]
            checks = {step: check(**arguments(step), dataset=dataset) for step, check in before_train.items()}
            train = train_step(**arguments("train"), dataset=dataset, validation=validation)
            train.after(*checks.values())
            model = train.outputs["model"]
            evaluate = steps.evaluate(**arguments("evaluate"), dataset=dataset, model=model)
            judged = {"model": model, "evaluation": evaluate.outputs["evaluation"], "validation": validation}
            gate = steps.gate(**arguments("gate"), **judged)
            push = steps.push(**arguments("push"), **judged, verdict=gate.outputs["verdict"])
            for task in (gate, push):  # they depend on the registry, which no cache key covers; repeating them is safe
                task.set_caching_options(False)
        tasks = {"ingest": ingest, "validate": validate, **checks, "train": train, "evaluate": evaluate}
        tasks |= {"gate": gate, "push": push}
        for step, task in {**tasks, "report": report}.items():
            place(task, step)

    # KFP reads signature and docstring; a pipeline on this machine has no parameters.
    wgan_pipeline.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wgan_pipeline.__doc__ = docstring
    return dsl.pipeline(wgan_pipeline, name=NAME)


def checks_before_train(config: RunConfig) -> Checks:
    """Return the steps that must succeed before train, by name: tpu_check if the configuration has it."""
    return {"tpu_check": steps.tpu_check} if "tpu_check" in config.sections() else {}
