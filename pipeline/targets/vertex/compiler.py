"""Compile for Vertex AI Pipelines: the graph in one YAML document, with train on a TPU as a custom job."""

from __future__ import annotations

from pathlib import Path

from kfp import dsl

from pipeline.config import RunConfig
from pipeline.targets.spec import compile_spec, retry_where_safe, tpu_row
from pipeline.targets.vertex.custom_job import train_on_tpu


def compile_pipeline(config: RunConfig, out: Path) -> None:
    """Write the pipeline for Vertex AI; needs no project, no account and no network.

    Raises ConfigError for a TPU that Vertex AI does not have or on which training does not run there.
    """
    row = tpu_row(config, "vertex")
    train_job = train_on_tpu(row, config.deploy) if row else None

    def place(task: dsl.PipelineTask, step: str) -> None:
        retry_where_safe(task, step, config.deploy)
        if step == "train" and train_job:
            return  # the custom job has its own machine
        task.set_cpu_limit(config.deploy.cpu)  # Vertex chooses a machine with at least this
        task.set_memory_limit(config.deploy.memory)

    compile_spec(config, out, place, train_job)
