"""Imports Beam without the messages that every import logs about Google Cloud packages that are not used here."""

from __future__ import annotations

import logging
import warnings


def _not_about_bigquery(record: logging.LogRecord) -> bool:
    return "apitools not found" not in record.getMessage()


logging.getLogger().addFilter(_not_about_bigquery)
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a missing grpcio-status, which is not used here
        import apache_beam as beam
        import grpc  # type: ignore[import-untyped]
        from apache_beam.error import BeamError
        from apache_beam.options.pipeline_options import (
            FlinkRunnerOptions,
            GoogleCloudOptions,
            PipelineOptions,
            StandardOptions,
        )
finally:
    logging.getLogger().removeFilter(_not_about_bigquery)

__all__ = [
    "BeamError",
    "FlinkRunnerOptions",
    "GoogleCloudOptions",
    "PipelineOptions",
    "StandardOptions",
    "beam",
    "grpc",
]
