"""In place of Kubeflow Pipelines 2.17.0's API server and its Argo, which need a Kubernetes cluster, MySQL and an object store.

It has the part of the REST API (v2beta1) that submit and schedule need, reads bodies with the API's own messages and answers
400 to anything else. Runs are executed by KFP's local orchestrator in a separate process, from the uploaded file alone. What it
says of runs was seen on the real one: kubeflow_answers/ has an answer of it, and task_details() makes lists of the same form;
the exit handler's final status is COMPLETE or FAILED, without an error; a scheduled run has no job name; deleting a schedule
ends its runs, which stay RUNNING.
"""

from __future__ import annotations

import contextlib
import datetime
import email
import email.policy
import json
import os
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.support.servers.json_server import Answer, BadRequestError, Json, JsonHandler, Service, page_of, served
from tests.support.servers.run_compiled import Job, ended_tasks, start_compiled

API = "/apis/v2beta1"
ANSWERS = Path(__file__).parent / "kubeflow_answers"
NOT_ENDED = ("PENDING", "RUNNING")
Attempts = str | list[str]  # the state of a step, or of each of its attempts
PLAIN = {"str": str, "int": int, "bool": bool, "datetime": str, "object": object}


@dataclass
class Kubeflow(Service):
    """The state of the server. With `execute` False, a run ends with `outcome` at the second request for its state.

    `answers` are the answers to the next requests for the state of a run; the last one stays. `workflow` is Argo's workflow of
    every run, as the API's older version returns it; `events` and `logs` are those of its pods, which KFP's user interface
    serves.
    """

    folder: Path = Path()
    execute: bool = False
    multi_user: bool = False
    outcome: tuple[str, dict[str, Attempts]] = ("SUCCEEDED", {})
    answers: list[Json] = field(default_factory=list)
    workflow: Json = field(default_factory=dict)
    events: dict[str, list[Json]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    experiments: dict[str, Json] = field(default_factory=dict)
    pipelines: dict[str, Json] = field(default_factory=dict)
    versions: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Json] = field(default_factory=dict)
    recurring: dict[str, Json] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def started(self) -> list[Json]:
        """The runs that were started."""
        return list(self.runs.values())

    def scheduled(self) -> dict[str, bool]:
        """Return the schedules by name, and whether each is on."""
        return {each["display_name"]: each["status"] == "ENABLED" for each in self.recurring.values()}

    def path(self, path: str) -> str | None:
        return path.removeprefix(API) if path.startswith(API) else path


class KubeflowHandler(JsonHandler):
    """Also reads uploads."""

    def _content(self, body: bytes) -> Any:
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/"):
            return super()._content(body)
        whole = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
        (part,) = email.message_from_bytes(whole, policy=email.policy.HTTP).iter_parts()  # type: ignore[attr-defined]
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        return part.get_payload(decode=True)


def checked(value: Any, kind: str) -> Any:
    """Return a JSON value if it is of this type of the API. Raises BadRequestError for other keys and types."""
    if value is None:
        return None
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        return [checked(each, found[1]) for each in value]
    if found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        return {key: checked(each, found[1]) for key, each in value.items()}
    if kind == "str" and isinstance(value, int):
        value = str(value)  # int64 may come as a number: protobuf's JSON accepts both
    if kind in PLAIN:
        if not isinstance(value, PLAIN[kind]):
            raise BadRequestError(f"{value!r} is not a {kind}")
        return value
    message = getattr(kfp_server_api, kind)
    if not hasattr(message, "openapi_types") or not message.openapi_types:  # an enumeration
        if value not in message.allowable_values:
            raise BadRequestError(f"{value!r} is not a {kind}")
        return value
    names = {there: here for here, there in message.attribute_map.items()}
    if not isinstance(value, dict) or set(value) - set(names):
        raise BadRequestError(f"{kind} does not have {set(value) - set(names)}")
    return {key: checked(each, message.openapi_types[names[key]]) for key, each in value.items()}


def healthz(kubeflow: Kubeflow, _: Any, __: Any) -> Answer:
    return 200, {"multi_user": True} if kubeflow.multi_user else {}  # the API leaves out what is false


def listed(key: str, things: Callable[[Kubeflow, tuple[str, ...]], list[Json]]) -> Callable[..., Answer]:
    """Return the handler of a list, with the API's filter by one field."""

    def answer(kubeflow: Kubeflow, _: Any, query: Json, *path: str) -> Answer:
        found = things(kubeflow, path)
        if "filter" in query:
            (predicate,) = json.loads(query["filter"])["predicates"]
            assert predicate["operation"] == "EQUALS"
            assert predicate["key"] in ("display_name", "recurring_run_id")
            found = [each for each in found if each.get(predicate["key"]) == predicate["stringValue"]]
        page, token = page_of(found, query, "page_token")
        return 200, {key: page, "total_size": len(found), **({"next_page_token": token} if token else {})}

    return answer


def create_experiment(kubeflow: Kubeflow, body: Any, _: Any) -> Answer:
    return _created(kubeflow.experiments, "experiment_id", checked(body, "V2beta1Experiment"))


def create_pipeline(kubeflow: Kubeflow, body: Any, _: Any) -> Answer:
    return _created(kubeflow.pipelines, "pipeline_id", checked(body, "V2beta1Pipeline"))


def upload_version(kubeflow: Kubeflow, body: Any, query: Json) -> Answer:
    if query["pipelineid"] not in kubeflow.pipelines:
        return 404, {"message": "no such pipeline"}
    try:
        spec, *platform = list(yaml.safe_load_all(body))
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        for each in platform:
            json_format.ParseDict(each, pipeline_spec_pb2.PlatformSpec())
    except (yaml.YAMLError, ValueError) as error:
        raise BadRequestError(f"not a pipeline: {error}") from None
    content = {"display_name": query["name"], "pipeline_id": query["pipelineid"]}
    status, version = _created(kubeflow.versions, "pipeline_version_id", content)
    if status == 200:
        (kubeflow.folder / f"{version['pipeline_version_id']}.yaml").write_bytes(body)
    return status, version


def start_run(kubeflow: Kubeflow, body: Any, _: Any) -> Answer:
    run = checked(body, "V2beta1Run")
    if run["experiment_id"] not in kubeflow.experiments:
        return 404, {"message": "no such experiment"}
    version = run["pipeline_version_reference"]["pipeline_version_id"]
    if version not in kubeflow.versions:
        return 404, {"message": "no such version"}
    check_parameters(kubeflow.folder / f"{version}.yaml", run["runtime_config"])
    return 200, _shown(_started(kubeflow, run, run["display_name"]))


def check_parameters(file: Path, runtime_config: Json) -> None:
    """Raise BadRequestError for parameters that the pipeline does not have, or of other types, as Kubeflow Pipelines 2.17.0."""
    declared = next(yaml.load_all(file.read_text(), yaml.CSafeLoader))["root"]["inputDefinitions"]["parameters"]
    types = {"STRING": str, "NUMBER_INTEGER": (int, float), "BOOLEAN": bool, "LIST": list}
    for name, value in runtime_config.get("parameters", {}).items():
        if name not in declared:
            raise BadRequestError(f"parameter(s) provided are not required by pipeline: {name}")
        if not isinstance(value, types[declared[name]["parameterType"]]):
            raise BadRequestError(f"input parameter {name} requires type {declared[name]['parameterType']}")


def _started(kubeflow: Kubeflow, run: Json, job_name: str) -> Json:
    run = _stored(kubeflow.runs, "run_id", {**run, "state": "PENDING", "polled": 0})
    if kubeflow.execute:
        workflow = f"wgan-tpu-pipeline-{run['run_id'][:5]}" if job_name else run["display_name"]
        job = Job(run["run_id"], job_name, workflow, kubeflow=True)
        thread = threading.Thread(target=_execute, args=(kubeflow, run, job))
        kubeflow.threads.append(thread)
        thread.start()
    return run


def tick(kubeflow: Kubeflow, recurring_run_id: str) -> str:
    """Start the run of a schedule whose time has come, as Kubeflow does; return the run's id, "" if none may start."""
    schedule = kubeflow.recurring[recurring_run_id]
    active = _active(kubeflow, recurring_run_id)
    if schedule["status"] != "ENABLED" or len(active) >= int(schedule["max_concurrency"]):
        return ""
    names = ("experiment_id", "pipeline_version_reference", "runtime_config")
    run = {name: schedule[name] for name in names if name in schedule}
    workflow = f"{schedule['display_name']}{recurring_run_id[:5]}-{len(kubeflow.runs) + 1}-2986495537"
    run |= {"recurring_run_id": recurring_run_id, "display_name": workflow}
    return str(_started(kubeflow, run, job_name="")["run_id"])


def _active(kubeflow: Kubeflow, recurring_run_id: str) -> list[Json]:
    runs = [run for run in kubeflow.runs.values() if run.get("recurring_run_id") == recurring_run_id]
    return [run for run in runs if run["state"] in NOT_ENDED]


def _execute(kubeflow: Kubeflow, run: Json, job: Job) -> None:
    root = kubeflow.folder / run["run_id"]
    file = kubeflow.folder / f"{run['pipeline_version_reference']['pipeline_version_id']}.yaml"
    arguments = (run.get("runtime_config") or {}).get("parameters") or {}
    run["state"] = "RUNNING"
    process = start_compiled(file, root, kubeflow.folder / "cache", job, arguments)
    kubeflow.processes[run["run_id"]] = process
    code = process.wait()
    if "orphan" in run:
        return
    run["run_details"] = task_details(ended_tasks(root), job.resource_name)
    run["state"] = "SUCCEEDED" if code == 0 else "FAILED"


def get_run(kubeflow: Kubeflow, _: Any, __: Any, run_id: str) -> Answer:
    run = kubeflow.runs.get(run_id)
    if run is None:
        return 404, {"message": "no such run"}
    if kubeflow.answers:
        return 200, kubeflow.answers.pop(0) if len(kubeflow.answers) > 1 else kubeflow.answers[0]
    run["polled"] += 1
    if not kubeflow.execute and run["polled"] >= 2 and "orphan" not in run:
        run["state"], steps = kubeflow.outcome
        run["run_details"] = task_details(steps)
    return 200, _shown(run)


def get_workflow(kubeflow: Kubeflow, _: Any, __: Any, run_id: str) -> Answer:
    if run_id not in kubeflow.runs:
        return 404, {"message": "no such run"}
    return 200, {"run": {"id": run_id}, "pipeline_runtime": {"workflow_manifest": json.dumps(kubeflow.workflow)}}


def get_events(kubeflow: Kubeflow, _: Any, query: Json) -> Answer:
    assert query["podnamespace"] == kubeflow.workflow["metadata"]["namespace"]
    return 200, {"kind": "EventList", "items": kubeflow.events.get(query["podname"], [])}


def get_log(kubeflow: Kubeflow, _: Any, query: Json) -> Answer:
    found = kubeflow.logs.get(query["podname"])
    return (404, "pod not found") if found is None else (200, found)


def task_details(steps: Mapping[str, Attempts], workflow: str = "wgan-tpu-pipeline-6r5nl") -> Json:
    """Return the tasks of a run as the API lists them: the nodes of Argo's workflow, each with its attempts, by random ids.

    A name that ends with -driver is a step of which only the driver ran.
    """
    states = {name: [state] if isinstance(state, str) else state for name, state in steps.items()}
    whole = "FAILED" if any(attempts[-1] == "FAILED" for attempts in states.values()) else "SUCCEEDED"
    nodes = {name: [whole] for name in (workflow, "root", "exit-handler-1")}
    nodes |= {"root-driver": ["SUCCEEDED"], "exit-handler-1-driver": ["SUCCEEDED"]}
    tasks = [task for name, attempts in nodes.items() for task in _nodes(name, attempts, second=0)]
    for number, (name, attempts) in enumerate(states.items(), start=1):
        if name.endswith("-driver"):
            tasks += _nodes(name, attempts, number)
        else:
            tasks += _nodes(f"{name}-driver", ["SUCCEEDED"], number)
            tasks += _nodes(name, attempts[-1:], number) + _nodes("executor", attempts, number)
    return {"task_details": sorted(tasks, key=lambda task: str(task["task_id"]))}


def _nodes(name: str, attempts: list[str], second: int) -> list[Json]:
    """Return a node of a workflow, whose state is that of its last attempt, and its attempts."""
    named = {name: attempts[-1], **{f"{name}({number})": state for number, state in enumerate(attempts)}}
    time = f"2026-11-24T03:36:{second:02}Z"
    return [
        {"task_id": str(uuid.uuid4()), "display_name": each, "state": state, "start_time": time}
        for each, state in named.items()
    ]


def recorded_answer(name: str) -> Json:
    """Return an answer of the real API server."""
    answer: Json = json.loads((ANSWERS / f"{name}.json").read_bytes())
    return answer


def answer_at(answer: Json, time: str) -> Json:
    """Return what the API server said of a run at an earlier time (ISO 8601 in UTC, to the second), from its last answer."""

    def then(thing: Json) -> Json:
        seen = [each["state"] for each in thing.get("state_history", ()) if each["update_time"] <= time]
        return {**thing, **({"state": seen[-1]} if seen else {})}

    tasks = answer["run_details"]["task_details"]
    begun = [then(task) for task in tasks if any(each["update_time"] <= time for each in task.get("state_history", ()))]
    return {**then(answer), "run_details": {"task_details": begun}}


def _shown(run: Json) -> Json:
    shown = {key: value for key, value in run.items() if key not in ("polled", "orphan")}
    checked(shown, "V2beta1Run")
    return shown


def create_recurring(kubeflow: Kubeflow, body: Any, _: Any) -> Answer:
    wanted = checked(body, "V2beta1RecurringRun")
    fields = wanted["trigger"]["cron_schedule"]["cron"].split()
    if len(fields) != 6:  # robfig/cron v1 accepts five too, and reads them as seconds first, which nobody means
        raise BadRequestError(f"{len(fields)} fields")
    status = "ENABLED" if wanted["mode"] == "ENABLE" else "DISABLED"
    return 200, _stored(kubeflow.recurring, "recurring_run_id", {**wanted, "status": status})


def switch_recurring(kubeflow: Kubeflow, _: Any, __: Any, name: str, verb: str) -> Answer:
    if name not in kubeflow.recurring:
        return 404, {"message": "no such recurring run"}
    kubeflow.recurring[name]["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
    return 200, {}


def delete_recurring(kubeflow: Kubeflow, _: Any, __: Any, name: str) -> Answer:
    for run in _active(kubeflow, name):  # Kubernetes removes the workflows that the schedule owns
        run |= {"orphan": True, "state": "RUNNING"}
        if run["run_id"] in kubeflow.processes:
            os.killpg(kubeflow.processes[run["run_id"]].pid, signal.SIGKILL)
    return (200, {}) if kubeflow.recurring.pop(name, None) else (404, {"message": "no such recurring run"})


def _created(things: dict[str, Json], key: str, content: Json) -> Answer:
    name = content["display_name"]
    if any(each["display_name"] == name for each in things.values()):
        return 409, {"message": f"{name} already exists"}
    return 200, _stored(things, key, content)


def _stored(things: dict[str, Json], key: str, content: Json) -> Json:
    name = str(uuid.uuid4())
    created_at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    things[name] = {**content, key: name, "created_at": created_at}
    return things[name]


def _versions(kubeflow: Kubeflow, path: tuple[str, ...]) -> list[Json]:
    return [each for each in kubeflow.versions.values() if each["pipeline_id"] == path[0]]


Kubeflow.ROUTES = (
    ("GET", "/healthz", healthz),
    ("GET", "/experiments", listed("experiments", lambda k, _: list(k.experiments.values()))),
    ("POST", "/experiments", create_experiment),
    ("GET", "/pipelines", listed("pipelines", lambda k, _: list(k.pipelines.values()))),
    ("POST", "/pipelines", create_pipeline),
    ("POST", "/pipelines/upload_version", upload_version),
    ("GET", "/pipelines/([^/]+)/versions", listed("pipeline_versions", _versions)),
    ("POST", "/runs", start_run),
    ("GET", "/runs", listed("runs", lambda k, _: [_shown(each) for each in k.runs.values()])),
    ("GET", "/runs/([^/]+)", get_run),
    ("GET", "/apis/v1beta1/runs/([^/]+)", get_workflow),
    ("GET", "/k8s/pod/events", get_events),
    ("GET", "/k8s/pod/logs", get_log),
    ("GET", "/recurringruns", listed("recurringRuns", lambda k, _: list(k.recurring.values()))),
    ("POST", "/recurringruns", create_recurring),
    ("POST", "/recurringruns/([^/]+):(enable|disable)", switch_recurring),
    ("DELETE", "/recurringruns/([^/]+)", delete_recurring),
)


@contextlib.contextmanager
def kubeflow_served(folder: Path) -> Iterator[tuple[str, Kubeflow]]:
    """Serve Kubeflow Pipelines, with its files in `folder`; yields its URL and its state."""
    kubeflow = Kubeflow(folder=folder)
    with served(kubeflow, KubeflowHandler) as url:
        yield url, kubeflow
    for each in kubeflow.threads:
        each.join()
