"""Imports Beam without packages that it imports if they are installed, and without messages about missing ones.

Its clients of Google Cloud Storage, S3, MongoDB and HTTP, and Arrow, take a third of its import. What our stores use of these,
they import themselves. Only jobs on Dataflow need them.
"""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec

from components.common.imports import importing_without

UNUSED = () if find_spec("google.cloud.dataflow_v1beta3") else (
    "boto3", "google.cloud.storage", "pyarrow", "pymongo", "requests",
)  # fmt: skip


# Of missing packages, some are logged and some are warnings, as of grpcio-status, which is not used here.
disabled_before = logging.root.manager.disable
logging.disable(logging.WARNING)
try:
    with importing_without(*UNUSED), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import apache_beam as beam
        import grpc  # type: ignore[import-untyped]
        from apache_beam.error import BeamError
        from apache_beam.options.pipeline_options import (
            FlinkRunnerOptions,
            GoogleCloudOptions,
            PipelineOptions,
            StandardOptions,
        )
        from apache_beam.portability.python_urns import SUBPROCESS_SDK
        from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
finally:
    logging.disable(disabled_before)

__all__ = [
    "SUBPROCESS_SDK",
    "BeamError",
    "FlinkRunnerOptions",
    "GoogleCloudOptions",
    "GrpcWorkerHandler",
    "PipelineOptions",
    "StandardOptions",
    "WorkerHandler",
    "beam",
    "grpc",
]
