"""The pipeline: wiring only. What a step decides is in its artifact, and the next step reads it there (decision 0003)."""

from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl

from pipeline import steps
from pipeline.config import RunConfig

Place = Callable[[dsl.PipelineTask, str], None]
NAME = "wgan-tpu-pipeline"


Keys = Mapping[str, Any]
FindKeys = Callable[[Keys, Any, Place], Keys]
Checks = Mapping[str, Callable[..., dsl.PipelineTask]]


def keys_as_given(given: Keys, run: Any, place: Place) -> Keys:  # noqa: ARG001
    """Return the keys that the pipeline was started with: whoever started it has looked at the source."""
    return given


def keys_looked_up(given: Keys, run: Any, place: Place) -> Keys:  # noqa: ARG001
    """Return the keys that a step of its own finds: the data snapshot's digest is a parameter of every step after it."""
    snapshot = steps.snapshot(run=run, job_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
    snapshot.set_caching_options(False)
    place(snapshot, "snapshot")
    found: Keys = snapshot.outputs
    return found


def make_pipeline(
    place: Place,
    before_train: Checks,
    created_at: str = "",
    *,
    train_step: Callable[..., dsl.PipelineTask] = steps.train,
    find_keys: FindKeys = keys_as_given,
) -> Any:
    """Return the @dsl.pipeline; `place` says for each task, by its step's name, where it runs (a target's business).

    `before_train` are the steps that must succeed before train begins (checks_before_train). `created_at` is the platform's
    placeholder for when a run began; the local runner knows none and is told in `run`. `train_step` takes what
    steps.train does. `find_keys` gives the steps' keys: keys_as_given, or keys_looked_up where nobody has seen the source.
    """

    @dsl.pipeline(name=NAME, description="Ingest, validate, train a WGAN-GP, evaluate, push if better.")
    def wgan_pipeline(
        ingest_config: str,
        ingest_key: str,
        validate_config: str,
        validate_key: str,
        train_config: str,
        train_key: str,
        evaluate_config: str,
        evaluate_key: str,
        push_config: str,
        push_key: str,
        work_dir: str,
        run: str,
        tpu_check_config: str = "",
        tpu_check_key: str = "",
    ) -> None:
        report = steps.report(
            run=run,
            job_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            created_at=created_at,
        )
        report.set_caching_options(False)
        with dsl.ExitHandler(report, name="pipeline"):
            given = {"ingest": ingest_key, "validate": validate_key, "tpu_check": tpu_check_key}
            given |= {"train": train_key, "evaluate": evaluate_key, "push": push_key}
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
            push = steps.push(
                config=push_config,
                key=key["push"],
                work_dir=work_dir,
                model=model,
                evaluation=evaluate.outputs["evaluation"],
                validation=validation,
            )
            push.set_caching_options(False)  # it looks at the registry, which no cache key knows; repeating it is safe
        tasks = {"ingest": ingest, "validate": validate, **checks, "train": train, "evaluate": evaluate, "push": push}
        for step, task in {**tasks, "report": report}.items():
            place(task, step)

    return wgan_pipeline


def checks_before_train(config: RunConfig) -> Checks:
    """Return tpu_check where the configuration has that step, by its name."""
    return {step: check for step, check in {"tpu_check": steps.tpu_check}.items() if step in config.sections()}


def place_nowhere(task: dsl.PipelineTask, step: str) -> None:
    """Leave a task as it is: the local runner knows no machines."""
