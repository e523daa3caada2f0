"""Imports Beam without what it says on every import about Google Cloud packages that nobody asked for."""

from __future__ import annotations

import logging
import warnings


def _not_about_bigquery(record: logging.LogRecord) -> bool:
    return "apitools not found" not in record.getMessage()


logging.getLogger().addFilter(_not_about_bigquery)
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing grpcio-status, which nothing here uses
        import apache_beam as beam
        import grpc  # type: ignore[import-untyped]
        from apache_beam.error import BeamError
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
finally:
    logging.getLogger().removeFilter(_not_about_bigquery)

__all__ = ["BeamError", "PipelineOptions", "StandardOptions", "beam", "grpc"]
