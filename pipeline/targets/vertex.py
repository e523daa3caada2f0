"""Vertex AI Pipelines: the same graph in one YAML document, which is all that Vertex accepts."""

from __future__ import annotations

from pathlib import Path

from components.errors import ConfigError
from pipeline.config import RunConfig
from pipeline.targets.spec import compile_spec, tpu_row


def compile_pipeline(config: RunConfig, out: Path) -> None:
    """Write the pipeline for Vertex AI. Raises ConfigError for a TPU, which needs a custom job that is not made yet."""
    if tpu_row(config, "vertex"):  # which refuses first what Vertex AI could not run even as a custom job
        raise ConfigError(
            f"compile --target vertex cannot place train on train.devices = {config.train.devices!r} yet: "
            "Vertex gives TPUs to custom jobs only.",
            "Use --target kubeflow, or --set train.devices=cpu:1.",
        )
    compile_spec(config, out)
