"""Imports Beam without the line that it logs on every import about a BigQuery client that nobody asked for."""

from __future__ import annotations

import logging


def _not_about_bigquery(record: logging.LogRecord) -> bool:
    return "apitools not found" not in record.getMessage()


logging.getLogger().addFilter(_not_about_bigquery)
try:
    import apache_beam as beam
    import grpc  # type: ignore[import-untyped]
    from apache_beam.error import BeamError
    from apache_beam.options.pipeline_options import PipelineOptions
finally:
    logging.getLogger().removeFilter(_not_about_bigquery)

__all__ = ["BeamError", "PipelineOptions", "beam", "grpc"]
