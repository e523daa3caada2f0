"""Google Cloud Dataflow: checks before a job is submitted, and waiting for the job without leaving it behind."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from components.common.addresses import is_address
from components.common.errors import ConfigError, InterruptedStepError, PipelineError
from components.common.progress import say
from components.ingest.config import IngestConfig

KEY = "ingest.beam_options"
DOCS = "docs/operations.md"
CLIENT = "google.cloud.dataflow_v1beta3"
WITHOUT_PIP = "--experiments=disable_logging_submission_environment"  # Beam would run pip, which the images do not contain
LOGGER = "apache_beam.runners.dataflow"


def is_named(options: tuple[str, ...]) -> bool:
    """Return whether Beam's options name Dataflow as the runner."""
    runner = next((option.partition("=")[2] for option in reversed(options) if option.startswith("--runner=")), "")
    return runner.lower().endswith("dataflowrunner")


def no_shared_folder(key: str) -> ConfigError:
    """Return the error for a job whose workers could not share files."""
    if key != KEY:
        return ConfigError(
            f"{key} names DataflowRunner, which this step cannot use.", "Set it for ingest only; this step is fast."
        )
    return ConfigError(
        f"{key} names DataflowRunner, whose workers cannot see the folder that this process reads and writes.",
        f"Set ingest.shared_folder to a URL such as gs://BUCKET/ingest ({DOCS}).",
    )


def complete(config: IngestConfig, name: str) -> tuple[str, ...]:
    """Return the options of a job on Dataflow: those of the config, and a name if they contain none.

    Raises ConfigError for a job that could not work: no shared folder, a source that workers cannot see, no image with this
    program, or no client.
    """
    options = config.beam_options
    if not config.shared_folder:
        raise no_shared_folder(KEY)
    kind, _, location = config.source.partition(":")
    if kind == "tfds" or (kind == "images" and not is_address(location)):
        raise ConfigError(
            f'{KEY} names DataflowRunner, whose workers cannot see ingest.source = "{config.source}".',
            "Put the images behind a URL such as images:gs://BUCKET/images.",
        )
    keys = {option.partition("=")[0] for option in options}
    if not keys & {"--sdk_container_image", "--worker_harness_container_image"}:
        raise ConfigError(
            f"{KEY} names DataflowRunner, but no container image with this program for its workers.",
            f"Add --sdk_container_image=IMAGE@sha256:… ({DOCS}).",
        )
    if importlib.util.find_spec("google.cloud") is None or importlib.util.find_spec(CLIENT) is None:
        raise ConfigError(
            f"{KEY} names DataflowRunner, whose client is not installed.", "Install the extra: wgan-tpu-pipeline[dataflow]."
        )
    job_name = () if "--job_name" in keys else (f"--job_name=wgan-ingest-{name}",)
    return (*options, *job_name, WITHOUT_PIP)


def run(pipeline: Any) -> None:
    """Submit a pipeline and wait for its end. Interrupting this process cancels the job."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    logging.getLogger(LOGGER).setLevel(logging.CRITICAL)  # it also logs what is raised
    result = pipeline.run()
    options = pipeline.options.get_all_options()
    say(f"Job {options['job_name']} ({result.job_id()}) runs on Dataflow in {options['region']}")
    try:
        result.wait_until_finish()
    except DataflowRuntimeException as error:
        raise RuntimeError(str(error)) from error  # like other runners: the traceback of a worker as text
    except (KeyboardInterrupt, InterruptedStepError):
        say(f"Cancelling job {result.job_id()}")
        result.cancel()
        raise
    if result.state != "DONE":
        raise PipelineError(f"The job on Dataflow ended in the state {result.state}.", "See its page in the console.")
