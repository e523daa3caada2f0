"""A Flink cluster: if this process is interrupted, the job that it submitted is cancelled.

Beam's job server knows the job but may be gone: Ctrl-C on a terminal ends it too. So the job gets a name, by which Flink itself
finds it.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any
from uuid import uuid4

from components.common.errors import InterruptedStepError, first_line
from components.common.progress import say
from components.ingest.beam.quiet_beam import FlinkRunnerOptions, GoogleCloudOptions, StandardOptions

TIMEOUT_SECONDS = 10.0
ENDED = ("FINISHED", "FAILED", "CANCELED")


def is_cluster(pipeline: Any) -> bool:
    """Return whether a pipeline runs on a Flink cluster, where its job outlives this process."""
    runner = pipeline.options.view_as(StandardOptions).runner or ""
    return runner.endswith("FlinkRunner") and not _master(pipeline).startswith("[")  # [local], [auto]


def _master(pipeline: Any) -> str:
    return str(pipeline.options.view_as(FlinkRunnerOptions).flink_master)


def run(pipeline: Any) -> None:
    """Run a pipeline on a Flink cluster. Interrupting this process cancels the job."""
    named = pipeline.options.view_as(GoogleCloudOptions)
    named.job_name = named.job_name or f"wgan-{uuid4().hex[:8]}"
    try:
        pipeline.run().wait_until_finish()
    except (KeyboardInterrupt, InterruptedStepError):
        url = _master(pipeline)  # Beam has put http:// in front
        try:
            cancel(url, named.job_name)
        except (OSError, ValueError, LookupError) as error:
            say(f"Job {named.job_name} could not be cancelled ({first_line(error)}): cancel it at {url}")
        else:
            say(f"Cancelled job {named.job_name}")
        raise


def cancel(url: str, name: str) -> None:
    """Cancel the jobs with this name, through Flink's REST API at `url`. Raises OSError and ValueError."""
    with urllib.request.urlopen(f"{url}/jobs/overview", timeout=TIMEOUT_SECONDS) as answer:
        jobs = json.load(answer)["jobs"]
    for job in jobs:
        if job["name"] == name and job["state"] not in ENDED:
            request = urllib.request.Request(f"{url}/jobs/{job['jid']}?mode=cancel", method="PATCH")
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
