"""A server on this machine with the part of Kubeflow Pipelines' REST API (v2beta1) that submit and schedule need.

It reads bodies with the API's own messages and answers 400 to anything else. Runs are executed by KFP's local orchestrator in a
separate process, from the uploaded file alone.
"""

from __future__ import annotations

import contextlib
import datetime
import email
import email.policy
import json
import re
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.support.servers.json_server import Answer, BadRequestError, Json, JsonHandler, Service, page_of, served
from tests.support.servers.run_compiled import ended_tasks, start_compiled

API = "/apis/v2beta1"
PLAIN = {"str": str, "int": int, "bool": bool, "datetime": str, "object": object}


@dataclass
class Kubeflow(Service):
    """The state of the server. With `execute` False, a run ends with `outcome` at the second request for its state."""

    folder: Path = Path()
    execute: bool = False
    outcome: tuple[str, dict[str, str]] = ("SUCCEEDED", {})
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

    def path(self, path: str) -> str | None:
        return path.removeprefix(API) if path.startswith(API) else None


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
    return 200, {"multi_user": False}


def listed(key: str, things: Callable[[Kubeflow, tuple[str, ...]], list[Json]]) -> Callable[..., Answer]:
    """Return the handler of a list, with the API's filter by display_name."""

    def answer(kubeflow: Kubeflow, _: Any, query: Json, *path: str) -> Answer:
        found = things(kubeflow, path)
        if "filter" in query:
            (predicate,) = json.loads(query["filter"])["predicates"]
            assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
            found = [each for each in found if each["display_name"] == predicate["stringValue"]]
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
    if run["pipeline_version_reference"]["pipeline_version_id"] not in kubeflow.versions:
        return 404, {"message": "no such version"}
    return 200, _shown(_started(kubeflow, run))


def _started(kubeflow: Kubeflow, run: Json) -> Json:
    run = _stored(kubeflow.runs, "run_id", {**run, "state": "PENDING", "polled": 0})
    if kubeflow.execute:
        thread = threading.Thread(target=_execute, args=(kubeflow, run))
        kubeflow.threads.append(thread)
        thread.start()
    return run


def tick(kubeflow: Kubeflow, recurring_run_id: str) -> str:
    """Start the run of a schedule whose time has come, as Kubeflow does; return the run's id, "" if none may start."""
    schedule = kubeflow.recurring[recurring_run_id]
    active = [
        run for run in kubeflow.runs.values()
        if run.get("recurring_run_id") == recurring_run_id and run["state"] in ("PENDING", "RUNNING")
    ]  # fmt: skip
    if schedule["status"] != "ENABLED" or len(active) >= int(schedule["max_concurrency"]):
        return ""
    names = ("experiment_id", "pipeline_version_reference", "runtime_config")
    run = {name: schedule[name] for name in names if name in schedule}
    run |= {"recurring_run_id": recurring_run_id, "display_name": f"{schedule['display_name']}-{len(kubeflow.runs)}"}
    return str(_started(kubeflow, run)["run_id"])


def _execute(kubeflow: Kubeflow, run: Json) -> None:
    root = kubeflow.folder / run["run_id"]
    file = kubeflow.folder / f"{run['pipeline_version_reference']['pipeline_version_id']}.yaml"
    arguments = (run.get("runtime_config") or {}).get("parameters") or {}
    run["state"] = "RUNNING"
    process = start_compiled(file, root, kubeflow.folder / "cache", arguments)
    kubeflow.processes[run["run_id"]] = process
    code = process.wait()
    run["run_details"] = _details(ended_tasks(root))
    run["state"] = "SUCCEEDED" if code == 0 else "FAILED"


def get_run(kubeflow: Kubeflow, _: Any, __: Any, run_id: str) -> Answer:
    run = kubeflow.runs.get(run_id)
    if run is None:
        return 404, {"message": "no such run"}
    run["polled"] += 1
    if not kubeflow.execute and run["polled"] >= 2:
        run["state"], steps = kubeflow.outcome
        run["run_details"] = _details(steps)
    return 200, _shown(run)


def _details(steps: dict[str, str]) -> Json:
    return {"task_details": [{"display_name": name, "state": state} for name, state in steps.items()]}


def _shown(run: Json) -> Json:
    shown = {key: value for key, value in run.items() if key != "polled"}
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
