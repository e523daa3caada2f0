"""A server on this machine that speaks Google Cloud Dataflow's REST protocol, and runs the jobs that it is sent.

Every request is read with the protocol's own messages. The pipeline is taken from where the job says that it was staged, and
is run by Beam's local runner in a process of its own, as `wgan-beam-worker` would be told to run it; nothing of the objects
that built it is used. Runs in a Python that has the extra `dataflow`: `python -m tests.support.servers.dataflow_server FOLDER`.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from google.cloud import dataflow_v1beta3 as dataflow

RUN = """
import sys
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
import fsspec

address = sys.argv[1]
with fsspec.open(address, "rb") as stream:
    pipeline = beam_runner_api_pb2.Pipeline.FromString(stream.read())
for environment in pipeline.components.environments.values():
    assert environment.urn == common_urns.environments.DOCKER.urn
    environment.urn, environment.payload = "beam:env:embedded_python:v1", b""
    del environment.dependencies[:]
FnApiRunner().run_via_runner_api(pipeline, PipelineOptions(flags=[])).wait_until_finish()
"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Takes jobs, tells their state and messages, and cancels them; `server.folder` gets a JSON file a job."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.split("/")
        assert parts[1:] == ["v1b3", "projects", parts[3], "locations", parts[5], "jobs"], self.path
        job = dataflow.Job.from_json(body)
        fault = self.server.folder / "fault"
        if fault.exists():
            status, message = fault.read_text().split(" ", 1)
            self._answer(int(status), {"error": {"code": int(status), "message": message}})
            return
        running = [known for known in self.server.jobs.values() if known.name == job.name and not _ended(known)]
        if running:
            self._answer(409, {"error": {"code": 409, "message": f"The job {job.name} is running already."}})
            return
        job.id = f"2026-{len(self.server.jobs)}"
        job.project_id, job.location = parts[3], parts[5]
        job.current_state = dataflow.JobState.JOB_STATE_RUNNING
        self.server.jobs[job.id] = job
        (self.server.folder / f"{job.id}.json").write_text(dataflow.Job.to_json(job))
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        self._answer(200, json.loads(dataflow.Job.to_json(job)))

    def _run(self, job: Any) -> None:
        options = dict(job.environment.sdk_pipeline_options)["options"]
        address = options["pipelineUrl"] if "pipelineUrl" in options else options["pipeline_url"]
        process = self.server.processes[job.id] = subprocess.Popen(
            [sys.executable, "-c", RUN, address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = process.communicate()[0]
        (self.server.folder / f"{job.id}.log").write_text(said)
        if process.returncode:
            self.server.messages[job.id] = said[-20_000:]
        if not _ended(job):
            states = dataflow.JobState
            job.current_state = states.JOB_STATE_FAILED if process.returncode else states.JOB_STATE_DONE

    def do_GET(self) -> None:
        id, what = [*urlsplit(self.path).path.split("/"), ""][7:9]
        if id not in self.server.jobs:
            self._answer(404, {"error": {"code": 404, "message": f"no job {id}"}})
        elif what == "messages":
            text = self.server.messages.get(id)
            error = {"id": "1", "time": "2026-01-01T00:00:00Z", "messageImportance": "JOB_MESSAGE_ERROR", "messageText": text}
            self._answer(200, {"jobMessages": [error] if text else []})
        elif what == "metrics":
            self._answer(200, {})
        else:
            self._answer(200, json.loads(dataflow.Job.to_json(self.server.jobs[id])))

    def do_PUT(self) -> None:
        job = self.server.jobs[urlsplit(self.path).path.split("/")[7]]
        asked = dataflow.Job.from_json(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked.requested_state == dataflow.JobState.JOB_STATE_CANCELLED
        job.current_state = dataflow.JobState.JOB_STATE_CANCELLED
        self.server.processes[job.id].kill()
        (self.server.folder / f"{job.id}.cancelled").touch()
        self._answer(200, json.loads(dataflow.Job.to_json(job)))

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _ended(job: Any) -> bool:
    return job.current_state.name not in {"JOB_STATE_RUNNING", "JOB_STATE_PENDING", "JOB_STATE_QUEUED"}


def serve(folder: Path) -> None:
    """Serve for ever; the port is written to `folder`/port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.jobs, server.messages, server.processes = folder, {}, {}, {}  # type: ignore[attr-defined]
    (folder / "port.tmp").write_text(str(server.server_port))
    (folder / "port.tmp").rename(folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
