"""A server on this machine with the part of Vertex AI Pipelines' REST API that submit and schedule need.

It reads every body with Vertex's own messages, which refuse unknown keys, and stores those messages. Nothing is executed.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.support.servers.json_server import Answer, Json, page_of, served
from tests.support.servers.vertex_server import LOCATION, NUMBERED, VertexService, content, read

STORE = f"{NUMBERED}/metadataStores/default"
State = aiplatform_v1.PipelineState


@dataclass
class VertexRuns(VertexService):
    """The state of the server. A run ends with `outcome` (state, steps, message) at the second request for its state."""

    outcome: tuple[Any, ...] = ("SUCCEEDED", {})
    jobs: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    experiments: dict[str, list[str]] = field(default_factory=dict)  # the contexts of their runs
    polled: dict[str, int] = field(default_factory=dict)

    @property
    def started(self) -> list[Any]:
        """The runs that were started."""
        return list(self.jobs.values())

    def scheduled(self) -> dict[str, bool]:
        """Return the schedules by name, and whether each is on."""
        return {each.display_name: each.state.name == "ACTIVE" for each in self.schedules.values()}

    def missing(self) -> Answer:
        """Return the answer to a request for an object that does not exist."""
        return 404, self.error(404, "no such object")


def create_job(runs: VertexRuns, body: Json, query: Json) -> Answer:
    run_id = query["pipelineJobId"]
    assert re.fullmatch("[a-z][-a-z0-9]{0,127}", run_id)
    name = f"{NUMBERED}/pipelineJobs/{run_id}"
    if name in runs.jobs:
        return 409, runs.error(409, f"{run_id} already exists")
    job = read(body, aiplatform_v1.PipelineJob)
    json_format.ParseDict(content(job)["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    assert job.runtime_config.gcs_output_directory.startswith("gs://")
    for key, value in job.labels.items():
        assert re.fullmatch("[a-z0-9_-]{1,63}", key)
        assert re.fullmatch("[a-z0-9_-]{0,63}", value)
    job.name, job.state = name, State.PIPELINE_STATE_PENDING
    runs.jobs[name] = job
    return 200, content(job)


def _end(job: Any, state: str, steps: dict[str, str], message: str = "") -> None:
    details = [aiplatform_v1.PipelineTaskDetail(task_name=step, state=each) for step, each in steps.items()]
    job.job_detail.task_details = details
    if message:
        job.error = {"code": 9, "message": message}
    job.state = f"PIPELINE_STATE_{state}"


def get_job(runs: VertexRuns, _: Any, __: Any, run_id: str) -> Answer:
    job = runs.jobs.get(f"{NUMBERED}/pipelineJobs/{run_id}")
    if job is None:
        return runs.missing()
    runs.polled[run_id] = runs.polled.get(run_id, 0) + 1
    job.job_detail.pipeline_run_context.name = f"{STORE}/contexts/{run_id}"
    if runs.polled[run_id] >= 2:
        _end(job, *runs.outcome)
    return 200, content(job)


def create_context(runs: VertexRuns, body: Json, query: Json) -> Answer:
    context = read(body, aiplatform_v1.Context)
    assert re.fullmatch("[a-z0-9][a-z0-9-]{0,127}", query["contextId"])
    assert (context.schema_title, context.schema_version) == ("system.Experiment", "0.0.1")
    assert dict(context.metadata) == {"experiment_deleted": False}
    if query["contextId"] in runs.experiments:
        return 409, runs.error(409, "it exists")
    runs.experiments[query["contextId"]] = []
    return 200, content(context)


def add_children(runs: VertexRuns, body: Json, _: Any, name: str) -> Answer:
    if name not in runs.experiments:
        return runs.missing()
    children = read(body, aiplatform_v1.AddContextChildrenRequest).child_contexts
    runs.experiments[name] += [each for each in children if each not in runs.experiments[name]]
    return 200, {}


def create_schedule(runs: VertexRuns, body: Json, _: Any) -> Answer:
    schedule = read(body, aiplatform_v1.Schedule)
    assert len(schedule.cron.partition(" ")[2].split()) == 5, "the time zone, and five fields"
    assert not schedule.create_pipeline_job_request.pipeline_job_id, "a schedule gives its runs their ids"
    schedule.name, schedule.state = f"{NUMBERED}/schedules/{len(runs.schedules) + 1}", "ACTIVE"
    schedule.start_time = schedule.start_time or datetime.datetime.now(datetime.UTC)
    runs.schedules[schedule.name] = schedule
    return 200, content(schedule)


def list_schedules(runs: VertexRuns, _: Any, query: Json) -> Answer:
    found = list(runs.schedules.values())
    if "filter" in query:
        (name,) = re.fullmatch('display_name="(.*)"', query["filter"]).groups()  # type: ignore[union-attr]
        found = [each for each in found if each.display_name == name]
    page, token = page_of(found, query, "pageToken")
    return 200, {"schedules": [content(each) for each in page], **({"nextPageToken": token} if token else {})}


def get_schedule(runs: VertexRuns, _: Any, __: Any, number: str) -> Answer:
    schedule = runs.schedules.get(f"{NUMBERED}/schedules/{number}")
    return (200, content(schedule)) if schedule else runs.missing()


def switch_schedule(runs: VertexRuns, body: Json, _: Any, number: str, verb: str) -> Answer:
    schedule = runs.schedules.get(f"{NUMBERED}/schedules/{number}")
    if schedule is None:
        return runs.missing()
    message = {"pause": aiplatform_v1.PauseScheduleRequest, "resume": aiplatform_v1.ResumeScheduleRequest}[verb]
    request = read({**body, "name": "x"}, message)
    assert not getattr(request, "catch_up", False)
    state = {"pause": "PAUSED", "resume": "ACTIVE"}[verb]
    if schedule.state.name == state:
        return 400, runs.error(400, f"it is {state}")
    schedule.state = state
    return 200, {}


def delete_schedule(runs: VertexRuns, _: Any, __: Any, number: str) -> Answer:
    found = runs.schedules.pop(f"{NUMBERED}/schedules/{number}", None)
    return (200, {"name": f"{NUMBERED}/operations/1", "done": True}) if found else runs.missing()


VertexRuns.ROUTES = (
    ("POST", rf"{LOCATION}/pipelineJobs", create_job),
    ("GET", rf"{LOCATION}/pipelineJobs/([a-z0-9-]+)", get_job),
    ("POST", rf"{LOCATION}/metadataStores/default/contexts", create_context),
    ("POST", rf"{LOCATION}/metadataStores/default/contexts/([a-z0-9-]+):addContextChildren", add_children),
    ("POST", rf"{LOCATION}/schedules", create_schedule),
    ("GET", rf"{LOCATION}/schedules", list_schedules),
    ("GET", rf"{LOCATION}/schedules/(\d+)", get_schedule),
    ("POST", rf"{LOCATION}/schedules/(\d+):(pause|resume)", switch_schedule),
    ("DELETE", rf"{LOCATION}/schedules/(\d+)", delete_schedule),
)


@contextlib.contextmanager
def runs_served() -> Iterator[tuple[str, VertexRuns]]:
    """Serve Vertex AI Pipelines; yields its URL and its state."""
    runs = VertexRuns()
    with served(runs) as url:
        yield url, runs
