"""A Beam worker that a runner starts as a process (`--environment_type=PROCESS`, as on Flink), without Beam's Go launcher.

    ingest.beam_options = ["--environment_type=PROCESS", '--environment_config={"command": "/path/to/wgan-beam-worker"}', …]

The runner starts the command with `--id` and the host and port of its provision service, which returns the endpoints for work
and logs and the options of the pipeline. Beam's own `boot` also installs packages that the job staged; here this program is
already installed wherever its workers run.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from google.protobuf import json_format, text_format

TIMEOUT_SECONDS = 60.0


def main(argv: list[str] | None = None) -> int:
    """Get the configuration from the runner, and work until the runner has no more requests."""
    parser = argparse.ArgumentParser(prog="wgan-beam-worker")
    parser.add_argument("--id", required=True, help="name of the worker, set by the runner")
    parser.add_argument("--provision_endpoint", required=True, help="host:port of the runner's provision service")
    arguments, _ = parser.parse_known_args(argv)
    os.environ |= worker_environment(provision_info(arguments.provision_endpoint, arguments.id), arguments.id)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])
    return 0


def provision_info(endpoint: str, worker_id: str) -> Any:
    """Return the runner's configuration of this worker, a ProvisionInfo."""
    import grpc  # type: ignore[import-untyped]
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc

    with grpc.insecure_channel(endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        metadata = (("worker_id", worker_id),)
        return stub.GetProvisionInfo(request, metadata=metadata, timeout=TIMEOUT_SECONDS, wait_for_ready=True).info


def worker_environment(info: Any, worker_id: str) -> dict[str, str]:
    """Return the environment variables that configure Beam's worker."""
    variables = {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    if info.HasField("status_endpoint"):
        variables["STATUS_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(info.status_endpoint)
    return variables


if __name__ == "__main__":
    sys.exit(main())
