"""Google Cloud Dataflow: what a job needs that other runners do not, and waiting for it without leaving it behind."""

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
WITHOUT_PIP = "--experiments=disable_logging_submission_environment"  # it would ask pip what is installed; the images have none
LOGGER = "apache_beam.runners.dataflow"


def is_named(options: tuple[str, ...]) -> bool:
    """Say whether Beam's options name Dataflow as the runner."""
    runner = next((option.partition("=")[2] for option in reversed(options) if option.startswith("--runner=")), "")
    return runner.lower().endswith("dataflowrunner")


def no_shared_folder(key: str) -> ConfigError:
    """Return the error of a job whose workers could leave nothing for one another."""
    if key != KEY:
        return ConfigError(
            f"{key} names DataflowRunner, which this step cannot use.", "Leave it to ingest; this step is quick."
        )
    return ConfigError(
        f"{key} names DataflowRunner, whose workers cannot see the folder that this process reads and writes.",
        f"Set ingest.shared_folder to an address such as gs://BUCKET/ingest ({DOCS}).",
    )


def complete(config: IngestConfig, name: str) -> tuple[str, ...]:
    """Return the options of a job on Dataflow: those of the config, and a name where they have none.

    Raises ConfigError for a job that could not work, before it is submitted and paid for: no shared folder, a source that
    workers cannot see, no image with this program, no client.
    """
    options = config.beam_options
    if not config.shared_folder:
        raise no_shared_folder(KEY)
    kind, _, place = config.source.partition(":")
    if kind == "tfds" or (kind == "images" and not is_address(place)):
        raise ConfigError(
            f'{KEY} names DataflowRunner, whose workers cannot see ingest.source = "{config.source}".',
            "Put the images at an address such as images:gs://BUCKET/images.",
        )
    given = {option.partition("=")[0] for option in options}
    if not given & {"--sdk_container_image", "--worker_harness_container_image"}:
        raise ConfigError(
            f"{KEY} names DataflowRunner, but no image that holds this program for its workers.",
            f"Add --sdk_container_image=IMAGE@sha256:… ({DOCS}).",
        )
    if importlib.util.find_spec("google.cloud") is None or importlib.util.find_spec(CLIENT) is None:
        raise ConfigError(
            f"{KEY} names DataflowRunner, whose client is not installed.", "Install the extra: wgan-tpu-pipeline[dataflow]."
        )
    named = () if "--job_name" in given else (f"--job_name=wgan-ingest-{name}",)
    return (*options, *named, WITHOUT_PIP)


def run(pipeline: Any) -> None:
    """Submit a pipeline, say where it can be watched, and wait for its end; a process that is stopped cancels its job."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    logging.getLogger(LOGGER).setLevel(logging.CRITICAL)  # it logs what is raised as well
    result = pipeline.run()
    options = pipeline.options.get_all_options()
    say(f"Job {options['job_name']} ({result.job_id()}) runs on Dataflow in {options['region']}")
    try:
        result.wait_until_finish()
    except DataflowRuntimeException as error:
        raise RuntimeError(str(error)) from error  # as other runners raise it: a worker's traceback as text
    except (KeyboardInterrupt, InterruptedStepError):
        say(f"Cancelling job {result.job_id()}")
        result.cancel()
        raise
    if result.state != "DONE":
        raise PipelineError(f"The job on Dataflow ended in the state {result.state}.", "See its page in the console.")
