"""A server on this machine that speaks as much of Kubeflow Pipelines' REST protocol (v2beta1) as submit and schedule take.

Bodies are read with the protocol's own messages and refused with 400 when they hold anything else. Pipelines that are started
are executed for real, by KFP's local orchestrator in a process of its own, from the file that was uploaded and nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import email
import email.policy
import http.server
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api

ROOT = Path(__file__).parents[2]
API = "/apis/v2beta1"
Fault = Callable[[str, str], tuple[int, dict[str, str]] | None]
Json = dict[str, Any]
PLAIN = {"str": str, "int": int, "bool": bool, "datetime": str, "object": object}


class WrongError(Exception):
    """A request that the protocol does not know."""


@dataclass
class Kubeflow:
    """What the server knows. `execute` False: runs end at once with `outcome`."""

    folder: Path
    execute: bool = False
    outcome: tuple[str, dict[str, str]] = ("SUCCEEDED", {})
    token: str = ""
    experiments: dict[str, Json] = field(default_factory=dict)
    pipelines: dict[str, Json] = field(default_factory=dict)
    versions: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Json] = field(default_factory=dict)
    recurring: dict[str, Json] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fault: Fault = lambda *_: None
    lose_answer: Callable[[str, str], bool] = lambda *_: False
    slow: Callable[[str, str], float] = lambda *_: 0.0
    reset: Callable[[str, str], bool] = lambda *_: False  # the connection breaks when half of the request is there
    polls: int = 2  # of a run, until it has ended
    threads: list[threading.Thread] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)


def checked(value: Any, kind: str) -> Any:
    """Return a JSON value if it is of this kind of the protocol. Raises WrongError for other keys and types."""
    if value is None:
        return None
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        return [checked(each, found[1]) for each in value]
    if found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        return {key: checked(each, found[1]) for key, each in value.items()}
    if kind == "str" and isinstance(value, int):
        value = str(value)  # int64 may come as a number: protobuf's JSON takes both
    if kind in PLAIN:
        if not isinstance(value, PLAIN[kind]):
            raise WrongError(f"{value!r} is no {kind}")
        return value
    message = getattr(kfp_server_api, kind)
    if not hasattr(message, "openapi_types") or not message.openapi_types:  # an enumeration
        if value not in message.allowable_values:
            raise WrongError(f"{value!r} is none of {kind}")
        return value
    names = {there: here for here, there in message.attribute_map.items()}
    if not isinstance(value, dict) or set(value) - set(names):
        raise WrongError(f"{kind} has no {set(value) - set(names)}")
    return {key: checked(each, message.openapi_types[names[key]]) for key, each in value.items()}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for `server.kubeflow`."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        url = urlsplit(self.path)
        kubeflow: Kubeflow = self.server.kubeflow
        path = unquote(url.path).removeprefix(API)
        kubeflow.requests.append(f"{method} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        if kubeflow.reset(method, path):
            self.rfile.read(length // 2)
            return reset(self)
        body = self.rfile.read(length)
        time.sleep(kubeflow.slow(method, path))
        if fault := kubeflow.fault(method, path):
            return self._answer(
                fault[0], {"error": "as requested by the test", "message": "as requested by the test"}, fault[1]
            )
        if kubeflow.token and self.headers.get("Authorization") != f"Bearer {kubeflow.token}":
            return self._answer(401, {"message": "Unauthenticated"})
        if not url.path.startswith(API):
            return self._answer(404, {"message": "not here"})
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        content = self._content(body)
        for verb, pattern, answer in ROUTES:
            if verb == method and (found := re.fullmatch(pattern, path)):
                try:
                    status, result = answer(kubeflow, content, query, *found.groups())
                except WrongError as error:
                    status, result = 400, {"message": str(error)}
                if kubeflow.lose_answer(method, path):  # done, and nobody is told
                    self.close_connection = True
                    return self.connection.close()
                return self._answer(status, result)
        return self._answer(404, {"message": f"{path} is not here"})

    def _content(self, body: bytes) -> Any:
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/"):
            whole = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
            (part,) = email.message_from_bytes(whole, policy=email.policy.HTTP).iter_parts()  # type: ignore[attr-defined]
            assert part.get_param("name", header="content-disposition") == "uploadfile"
            return part.get_payload(decode=True)
        return json.loads(body) if body else None

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response_only(status)
        for key, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body)), "Date": self.date_time_string()}
            | (headers or {})
        ).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def reset(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Break a connection as a machine does that dies: at once, whatever is under way."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


Answer = tuple[int, Any]


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def healthz(kubeflow: Kubeflow, _: Any, __: Any) -> Answer:
    return 200, {"multi_user": False}


def listed(key: str, things: Callable[[Kubeflow, Json], list[Json]]) -> Callable[..., Answer]:
    """One thing a page: whoever does not turn pages finds too little. Filters are those of the protocol, by display_name."""

    def answer(kubeflow: Kubeflow, _: Any, query: Json, *path: str) -> Answer:
        found = things(kubeflow, {**query, "path": path})
        if "filter" in query:
            (predicate,) = json.loads(query["filter"])["predicates"]
            assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
            found = [each for each in found if each["display_name"] == predicate["stringValue"]]
        at = int(query.get("page_token") or 0)
        more = {"next_page_token": str(at + 1)} if at + 1 < len(found) else {}
        return 200, {key: found[at : at + 1], "total_size": len(found), **more}

    return answer


def make_experiment(kubeflow: Kubeflow, body: Any, _: Any) -> Answer:
    name = checked(body, "V2beta1Experiment")["display_name"]
    if any(each["display_name"] == name for each in kubeflow.experiments.values()):
        return 409, {"message": f"experiment {name} already exists"}
    return 200, _kept(kubeflow.experiments, "experiment_id", body)


def make_pipeline(kubeflow: Kubeflow, body: Any, _: Any) -> Answer:
    name = checked(body, "V2beta1Pipeline")["display_name"]
    if any(each["display_name"] == name for each in kubeflow.pipelines.values()):
        return 409, {"message": f"pipeline {name} already exists"}
    return 200, _kept(kubeflow.pipelines, "pipeline_id", body)


def upload_version(kubeflow: Kubeflow, body: Any, query: Json) -> Answer:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    if query["pipelineid"] not in kubeflow.pipelines:
        return 404, {"message": "no such pipeline"}
    import yaml

    try:
        spec, *platform = list(yaml.safe_load_all(body))
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        for each in platform:
            json_format.ParseDict(each, pipeline_spec_pb2.PlatformSpec())
    except (yaml.YAMLError, json_format.ParseError, ValueError) as error:
        return 400, {"message": f"no pipeline: {error}"}
    if any(each["display_name"] == query["name"] for each in kubeflow.versions.values()):
        return 409, {"message": f"version {query['name']} already exists"}
    version = {"display_name": query["name"], "pipeline_id": query["pipelineid"]}
    version = _kept(kubeflow.versions, "pipeline_version_id", version)
    (kubeflow.folder / f"{version['pipeline_version_id']}.yaml").write_bytes(body)
    return 200, version


def start_run(kubeflow: Kubeflow, body: Any, _: Any) -> Answer:
    run = checked(body, "V2beta1Run")
    if run["experiment_id"] not in kubeflow.experiments:
        return 404, {"message": "no such experiment"}
    version = run["pipeline_version_reference"]["pipeline_version_id"]
    if version not in kubeflow.versions:
        return 404, {"message": "no such version"}
    return 200, _shown(_started(kubeflow, run, version))


def _started(kubeflow: Kubeflow, run: Json, version: str) -> Json:
    run = _kept(kubeflow.runs, "run_id", {**run, "state": "PENDING", "polled": 0})
    if kubeflow.execute:
        thread = threading.Thread(target=_execute, args=(kubeflow, run, version))
        kubeflow.threads.append(thread)
        thread.start()
    return run


def tick(kubeflow: Kubeflow, recurring_run_id: str) -> str:
    """Do what Kubeflow does when a schedule's time has come; return the run's id, empty where none may start."""
    schedule = kubeflow.recurring[recurring_run_id]
    going = [
        run for run in kubeflow.runs.values()
        if run.get("recurring_run_id") == recurring_run_id and run["state"] in ("PENDING", "RUNNING")
    ]  # fmt: skip
    if schedule["status"] != "ENABLED" or len(going) >= int(schedule["max_concurrency"]):
        return ""
    kept = {
        name: schedule[name] for name in ("experiment_id", "pipeline_version_reference", "runtime_config") if name in schedule
    }
    run = {**kept, "recurring_run_id": recurring_run_id, "display_name": f"{schedule['display_name']}-{len(kubeflow.runs)}"}
    return str(_started(kubeflow, run, schedule["pipeline_version_reference"]["pipeline_version_id"])["run_id"])


def _execute(kubeflow: Kubeflow, run: Json, version: str) -> None:
    """Run the file that was uploaded, in a process that knows nothing else."""
    root = kubeflow.folder / run["run_id"]
    root.mkdir()
    arguments = json.dumps((run.get("runtime_config") or {}).get("parameters") or {})
    command = [
        sys.executable,
        "-m",
        "tests.support.run_compiled",
        str(kubeflow.folder / f"{version}.yaml"),
        str(root),
        arguments,
    ]
    command.append(str(kubeflow.folder / "cache"))
    run["state"] = "RUNNING"
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        kubeflow.processes[run["run_id"]] = process
        code = process.wait()
    ended = re.findall(r"Task .*?'(\w+)'.*? finished with status .*?(SUCCESS|FAILURE)", (root / "log").read_text())
    states = {"SUCCESS": "SUCCEEDED", "FAILURE": "FAILED"}
    run["run_details"] = {"task_details": [{"display_name": name, "state": states[state]} for name, state in ended]}
    run["state"] = "SUCCEEDED" if code == 0 else "FAILED"


def get_run(kubeflow: Kubeflow, _: Any, __: Any, run_id: str) -> Answer:
    run = kubeflow.runs.get(run_id)
    if run is None:
        return 404, {"message": "no such run"}
    run["polled"] += 1
    if not kubeflow.execute and run["polled"] >= kubeflow.polls:
        run["state"], steps = kubeflow.outcome
        run["run_details"] = {"task_details": [{"display_name": name, "state": state} for name, state in steps.items()]}
    return 200, _shown(run)


def _shown(run: Json) -> Json:
    shown = {key: value for key, value in run.items() if key != "polled"}
    checked(shown, "V2beta1Run")
    return shown


def make_recurring(kubeflow: Kubeflow, body: Any, _: Any) -> Answer:
    wanted = checked(body, "V2beta1RecurringRun")
    fields = wanted["trigger"]["cron_schedule"]["cron"].split()
    if len(fields) != 6:  # robfig/cron v1 takes five too, and reads them as seconds first: nobody means that
        return 400, {"message": f"{len(fields)} fields"}
    status = "ENABLED" if wanted["mode"] == "ENABLE" else "DISABLED"
    return 200, _kept(kubeflow.recurring, "recurring_run_id", {**wanted, "status": status})


def switch_recurring(kubeflow: Kubeflow, _: Any, __: Any, name: str, verb: str) -> Answer:
    if name not in kubeflow.recurring:
        return 404, {"message": "no such recurring run"}
    kubeflow.recurring[name]["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
    return 200, {}


def delete_recurring(kubeflow: Kubeflow, _: Any, __: Any, name: str) -> Answer:
    return (200, {}) if kubeflow.recurring.pop(name, None) else (404, {"message": "no such recurring run"})


def _kept(things: dict[str, Json], key: str, body: Json) -> Json:
    name = str(uuid.uuid4())
    things[name] = {**body, key: name, "created_at": now()}
    return things[name]


ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", "/healthz", healthz),
    ("GET", "/experiments", listed("experiments", lambda k, _: list(k.experiments.values()))),
    ("POST", "/experiments", make_experiment),
    ("GET", "/pipelines", listed("pipelines", lambda k, _: list(k.pipelines.values()))),
    ("POST", "/pipelines", make_pipeline),
    ("POST", "/pipelines/upload_version", upload_version),
    (
        "GET",
        "/pipelines/([^/]+)/versions",
        listed("pipeline_versions", lambda k, q: [each for each in k.versions.values() if each["pipeline_id"] == q["path"][0]]),
    ),
    ("POST", "/runs", start_run),
    ("GET", "/runs", listed("runs", lambda k, _: [_shown(each) for each in k.runs.values()])),
    ("GET", "/runs/([^/]+)", get_run),
    ("GET", "/recurringruns", listed("recurringRuns", lambda k, _: list(k.recurring.values()))),
    ("POST", "/recurringruns", make_recurring),
    ("POST", "/recurringruns/([^/]+):(enable|disable)", switch_recurring),
    ("DELETE", "/recurringruns/([^/]+)", delete_recurring),
)


class Server(http.server.ThreadingHTTPServer):
    """A server that does not mind clients that go away."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def kubeflow_served(folder: Path) -> Iterator[tuple[str, Kubeflow]]:
    """Serve Kubeflow Pipelines, its files in `folder`; gives the server's address and what it knows."""
    server = Server(("127.0.0.1", 0), Handler)
    server.kubeflow = Kubeflow(folder)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.kubeflow  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for each in server.kubeflow.threads:  # type: ignore[attr-defined]
            each.join()
