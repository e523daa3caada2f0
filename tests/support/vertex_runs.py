"""A server on this machine that speaks as much of Vertex AI Pipelines' REST protocol as submit and schedule take.

Every body is read with Vertex's own messages, which know no other keys; what is kept are those messages. Runs are executed for
real, by KFP's local orchestrator in a process of its own, from the job that was sent and nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import json_format

from tests.support.vertex_server import NUMBERED, PARENT, TOKEN, Answer, Fault, read, served

ROOT = Path(__file__).parents[2]
State = aiplatform_v1.PipelineState
MISSING = {"error": {"code": 404, "message": "it is not there"}}


@dataclass
class Runs:
    """What the server knows. `execute` False: runs end with `outcome` when they have been asked for `polls` times."""

    folder: Path
    token: str = TOKEN
    execute: bool = False
    outcome: tuple[str, dict[str, str], str] = ("SUCCEEDED", {}, "")
    jobs: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fault: Fault = lambda *_: None
    resets: Callable[[], bool] = lambda: False
    loses: Callable[[str, str], bool] = lambda *_: False
    pause: Callable[[str, str], float] = lambda *_: 0.0
    polls: int = 2
    polled: dict[str, int] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)


def create_job(runs: Runs, body: dict[str, Any], query: dict[str, list[str]]) -> Answer:
    (run_id,) = query["pipelineJobId"]
    assert re.fullmatch("[a-z][-a-z0-9]{0,127}", run_id)
    name = f"{NUMBERED}/pipelineJobs/{run_id}"
    if name in runs.jobs:
        return 409, {"error": {"code": 409, "message": f"{run_id} already exists"}}
    return 200, content(start(runs, read(body, aiplatform_v1.PipelineJob), name))


def start(runs: Runs, job: Any, name: str) -> Any:
    """Begin a run of a job that was sent, by hand or by a schedule."""
    from kfp.pipeline_spec import pipeline_spec_pb2

    json_format.ParseDict(content(job)["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    assert job.runtime_config.gcs_output_directory.startswith("gs://")
    for key, value in job.labels.items():
        assert re.fullmatch("[a-z0-9_-]{1,63}", key)
        assert re.fullmatch("[a-z0-9_-]{0,63}", value)
    job.name, job.state = name, State.PIPELINE_STATE_PENDING
    runs.jobs[name] = job
    if runs.execute:
        thread = threading.Thread(target=_execute, args=(runs, job))
        runs.threads.append(thread)
        thread.start()
    return job


def _execute(runs: Runs, job: Any) -> None:
    """Run the job's specification, in a process that knows nothing else."""
    root = runs.folder / job.name.rpartition("/")[2]
    root.mkdir(parents=True)
    file = root / "pipeline.yaml"  # JSON is YAML
    file.write_text(json.dumps(content(job)["pipelineSpec"]))
    job.state = State.PIPELINE_STATE_RUNNING
    with (root / "log").open("wb") as log:
        command = [sys.executable, "-m", "tests.support.run_compiled", str(file), str(root), "{}"]
        command.append(str(runs.folder / "cache"))
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    ended = re.findall(r"Task .*?'([\w-]+)'.*? finished with status .*?(SUCCESS|FAILURE)", (root / "log").read_text())
    _end(
        job,
        "SUCCEEDED" if code == 0 else "FAILED",
        {step: {"SUCCESS": "SUCCEEDED"}.get(state, "FAILED") for step, state in ended},
    )


def _end(job: Any, state: str, steps: dict[str, str], message: str = "") -> None:
    details = [aiplatform_v1.PipelineTaskDetail(task_name=step, state=each) for step, each in steps.items()]
    job.job_detail = aiplatform_v1.PipelineJobDetail(task_details=details)
    if message:
        job.error = {"code": 9, "message": message}
    job.state = f"PIPELINE_STATE_{state}"


def get_job(runs: Runs, _: Any, __: Any, run_id: str) -> Answer:
    job = runs.jobs.get(f"{NUMBERED}/pipelineJobs/{run_id}")
    if job is None:
        return 404, MISSING
    runs.polled[run_id] = runs.polled.get(run_id, 0) + 1
    if not runs.execute and runs.polled[run_id] >= runs.polls:
        _end(job, *runs.outcome)
    return 200, content(job)


def create_schedule(runs: Runs, body: dict[str, Any], _: Any) -> Answer:
    schedule = read(body, aiplatform_v1.Schedule)
    assert len(schedule.cron.partition(" ")[2].split()) == 5, "the zone, and five fields"
    assert not schedule.create_pipeline_job_request.pipeline_job_id, "a schedule gives its runs their ids"
    schedule.name, schedule.state = f"{NUMBERED}/schedules/{len(runs.schedules) + 1}", "ACTIVE"
    schedule.start_time = schedule.start_time or datetime.datetime.now(datetime.UTC)
    runs.schedules[schedule.name] = schedule
    return 200, content(schedule)


def list_schedules(runs: Runs, _: Any, query: dict[str, list[str]]) -> Answer:
    """One schedule a page: whoever does not turn pages finds too little."""
    found = list(runs.schedules.values())
    if "filter" in query:
        (name,) = re.fullmatch('display_name="(.*)"', query["filter"][0]).groups()  # type: ignore[union-attr]
        found = [each for each in found if each.display_name == name]
    at = int(query.get("pageToken", ["0"])[0] or 0)
    more = {"nextPageToken": str(at + 1)} if at + 1 < len(found) else {}
    return 200, {"schedules": [content(each) for each in found[at : at + 1]], **more}


def get_schedule(runs: Runs, _: Any, __: Any, number: str) -> Answer:
    schedule = runs.schedules.get(f"{NUMBERED}/schedules/{number}")
    return (200, content(schedule)) if schedule else (404, MISSING)


def switch_schedule(runs: Runs, body: dict[str, Any], _: Any, number: str, verb: str) -> Answer:
    schedule = runs.schedules.get(f"{NUMBERED}/schedules/{number}")
    if schedule is None:
        return 404, MISSING
    message = {"pause": aiplatform_v1.PauseScheduleRequest, "resume": aiplatform_v1.ResumeScheduleRequest}[verb]
    request = read({**body, "name": "x"}, message)
    assert not getattr(request, "catch_up", False)
    if schedule.state.name == {"pause": "PAUSED", "resume": "ACTIVE"}[verb]:
        return 400, {"error": {"code": 400, "message": f"it is {schedule.state.name}"}}
    schedule.state = {"pause": "PAUSED", "resume": "ACTIVE"}[verb]
    return 200, {}


def delete_schedule(runs: Runs, _: Any, __: Any, number: str) -> Answer:
    found = runs.schedules.pop(f"{NUMBERED}/schedules/{number}", None)
    return (200, {"name": f"{NUMBERED}/operations/1", "done": True}) if found else (404, MISSING)


def content(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(type(message).pb(message))
    return found


ROUTES = (
    ("POST", rf"{PARENT}/pipelineJobs", create_job),
    ("GET", rf"{PARENT}/pipelineJobs/([a-z0-9-]+)", get_job),
    ("POST", rf"{PARENT}/schedules", create_schedule),
    ("GET", rf"{PARENT}/schedules", list_schedules),
    ("GET", rf"{PARENT}/schedules/(\d+)", get_schedule),
    ("POST", rf"{PARENT}/schedules/(\d+):(pause|resume)", switch_schedule),
    ("DELETE", rf"{PARENT}/schedules/(\d+)", delete_schedule),
)


@contextlib.contextmanager
def runs_served(folder: Path) -> Iterator[tuple[str, Runs]]:
    """Serve Vertex AI Pipelines, its files in `folder`; gives the server's address and what it knows."""
    runs = Runs(folder)
    with served(runs, ROUTES) as address:
        yield address, runs
    for each in runs.threads:
        each.join()
