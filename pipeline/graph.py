"""The pipeline: wiring only. A step's decision is in its artifact, where the next step reads it (decisions 0003 and 0020)."""

from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl

from pipeline import steps
from pipeline.config import RunConfig

NAME = "wgan-tpu-pipeline"
PlaceTask = Callable[[dsl.PipelineTask, str], None]
Keys = Mapping[str, Any]
FindKeys = Callable[[Keys, Any, PlaceTask], Keys]
Checks = Mapping[str, Callable[..., dsl.PipelineTask]]


def keys_as_given(given: Keys, run: Any, place: PlaceTask) -> Keys:  # noqa: ARG001
    """Return the keys among the pipeline's arguments: the caller has read the source."""
    return given


def keys_of_snapshot(given: Keys, run: Any, place: PlaceTask) -> Keys:  # noqa: ARG001
    """Return the keys that the step `snapshot` finds when the run begins."""
    snapshot = steps.snapshot(run=run, job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    snapshot.set_caching_options(False)
    place(snapshot, "snapshot")
    found: Keys = snapshot.outputs
    return found


def make_pipeline(
    place: PlaceTask,
    before_train: Checks,
    created_at: str = "",
    resource_name: str = "",
    *,
    train_step: Callable[..., dsl.PipelineTask] = steps.train,
    find_keys: FindKeys = keys_as_given,
) -> Any:
    """Return the @dsl.pipeline. `place(task, step)` sets where each task runs, which depends on the target.

    `before_train` are the steps that must succeed before train (checks_before_train). `created_at` and `resource_name` are the
    platform's placeholders for the start and a name of the run; a local run has both in `run`, and KFP's local runner fails on
    the latter. `train_step` has the parameters of steps.train.
    `find_keys` returns the keys of the steps: keys_as_given, or keys_of_snapshot if the source is unknown until the run begins.
    """

    @dsl.pipeline(name=NAME, description="Ingest, validate, train a WGAN-GP, evaluate, gate, push if better.")
    def wgan_pipeline(
        ingest_config: str,
        ingest_key: str,
        validate_config: str,
        validate_key: str,
        train_config: str,
        train_key: str,
        evaluate_config: str,
        evaluate_key: str,
        gate_config: str,
        gate_key: str,
        push_config: str,
        push_key: str,
        work_dir: str,
        run: str,
        tpu_check_config: str = "",
        tpu_check_key: str = "",
    ) -> None:
        report = steps.report(
            run=run,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            job_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            resource_name=resource_name,
            created_at=created_at,
        )
        report.set_caching_options(False)
        with dsl.ExitHandler(report, name="pipeline"):
            given = {"ingest": ingest_key, "validate": validate_key, "tpu_check": tpu_check_key}
            given |= {"train": train_key, "evaluate": evaluate_key, "gate": gate_key, "push": push_key}
            key = find_keys(given, run, place)
            ingest = steps.ingest(config=ingest_config, key=key["ingest"], work_dir=work_dir)
            dataset = ingest.outputs["dataset"]
            validate = steps.validate(config=validate_config, key=key["validate"], work_dir=work_dir, dataset=dataset)
            validation = validate.outputs["validation"]
            checks = {
                step: check(config=tpu_check_config, key=key["tpu_check"], work_dir=work_dir, dataset=dataset)
                for step, check in before_train.items()
            }
            train = train_step(config=train_config, key=key["train"], work_dir=work_dir, dataset=dataset, validation=validation)
            train.after(*checks.values())
            model = train.outputs["model"]
            evaluate = steps.evaluate(
                config=evaluate_config, key=key["evaluate"], work_dir=work_dir, dataset=dataset, model=model
            )
            judged = {"model": model, "evaluation": evaluate.outputs["evaluation"], "validation": validation}
            gate = steps.gate(config=gate_config, key=key["gate"], work_dir=work_dir, **judged)
            verdict = gate.outputs["verdict"]
            push = steps.push(config=push_config, key=key["push"], work_dir=work_dir, **judged, verdict=verdict)
            for task in (gate, push):  # they depend on the registry, which no cache key covers; repeating them is safe
                task.set_caching_options(False)
        tasks = {"ingest": ingest, "validate": validate, **checks, "train": train, "evaluate": evaluate}
        tasks |= {"gate": gate, "push": push}
        for step, task in {**tasks, "report": report}.items():
            place(task, step)

    return wgan_pipeline


def checks_before_train(config: RunConfig) -> Checks:
    """Return the steps that must succeed before train, by name: tpu_check if the configuration has it."""
    return {"tpu_check": steps.tpu_check} if "tpu_check" in config.sections() else {}
