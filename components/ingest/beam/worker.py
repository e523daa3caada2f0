"""A Beam worker that a runner starts as a process (`--environment_type=PROCESS`, as on Flink), without Beam's Go program.

    ingest.beam_options = ["--environment_type=PROCESS", '--environment_config={"command": "/path/to/wgan-beam-worker"}', …]

The runner starts the command with `--id` and the address of a service that knows the rest: where to take work from, where to
log to, and the pipeline's options. What Beam's own `boot` does beyond that, installing packages that the job staged, has no
use here: this program is installed wherever its workers run.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from google.protobuf import json_format, text_format

SECONDS_TO_ANSWER = 60.0


def main(argv: list[str] | None = None) -> int:
    """Ask the runner what to do, and work until it has no more requests."""
    parser = argparse.ArgumentParser(prog="wgan-beam-worker")
    parser.add_argument("--id", required=True, help="the worker's name, which the runner gave it")
    parser.add_argument("--provision_endpoint", required=True, help="host:port of the runner's provision service")
    arguments, _ = parser.parse_known_args(argv)
    os.environ |= surroundings(provision_info(arguments.provision_endpoint, arguments.id), arguments.id)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])
    return 0


def provision_info(endpoint: str, worker_id: str) -> Any:
    """Return what the runner tells this worker, a ProvisionInfo."""
    import grpc  # type: ignore[import-untyped]
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc

    with grpc.insecure_channel(endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        metadata = (("worker_id", worker_id),)
        return stub.GetProvisionInfo(request, metadata=metadata, timeout=SECONDS_TO_ANSWER, wait_for_ready=True).info


def surroundings(info: Any, worker_id: str) -> dict[str, str]:
    """Return the environment variables that Beam's worker takes its orders from."""
    found = {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    if info.HasField("status_endpoint"):
        found["STATUS_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(info.status_endpoint)
    return found


if __name__ == "__main__":
    sys.exit(main())
