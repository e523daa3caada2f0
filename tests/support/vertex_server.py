"""A server on this machine that speaks as much of Vertex AI's REST protocol as the Model Registry takes.

Every body is read with Vertex's own messages, which know no other keys; what is kept are those messages.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from google.cloud import aiplatform_v1
from google.protobuf import json_format

from tests.support.kubeflow_server import reset

PARENT = "projects/p/locations/europe-west4"
NUMBERED = "projects/123456/locations/europe-west4"  # Vertex answers with the project's number
TOKEN = "a-token"
Fault = Callable[[str, str], tuple[int, dict[str, str]] | None]


@dataclass
class Version:
    """A version of a model."""

    model: Any
    aliases: list[str]
    evaluations: list[Any] = field(default_factory=list)


@dataclass
class Vertex:
    """What the server knows: versions by model, uploads under way, and what it was asked for."""

    models: dict[str, list[Version]] = field(default_factory=dict)
    operations: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    polls: int = 2  # until an upload is done
    fault: Fault = lambda *_: None
    refuse_upload: str = ""
    lose_upload: bool = False  # done, and the connection breaks before anybody is told
    token: str = TOKEN

    def resets(self) -> bool:
        """Whether the connection breaks when half of what is made is there."""
        return False

    def pause(self, method: str, path: str) -> float:
        """Return the seconds before a request is answered."""
        return 0.0

    def loses(self, method: str, path: str) -> bool:
        """Whether a request is done and nobody is told."""
        lost = self.lose_upload and path.endswith("models:upload")
        self.lose_upload = self.lose_upload and not lost
        return lost

    def alias(self, model: str, alias: str) -> str:
        """Return the number of the version that has an alias."""
        return next((str(n) for n, each in enumerate(self.models[model], 1) if alias in each.aliases), "")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for `server.vertex`."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        self._handle("GET", b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.server.vertex.resets():
            self.rfile.read(length // 2)
            return reset(self)
        return self._handle("POST", self.rfile.read(length))

    def do_DELETE(self) -> None:
        self._handle("DELETE", b"")

    def _handle(self, method: str, body: bytes) -> None:
        url = urlsplit(self.path)
        path, vertex = url.path.removeprefix("/v1/"), self.server.vertex
        vertex.requests.append(f"{method} {path}")
        time.sleep(vertex.pause(method, path))
        if fault := vertex.fault(method, path):
            return self._answer(fault[0], {"error": {"code": fault[0], "message": "as requested by the test"}}, fault[1])
        if self.headers.get("Authorization") != f"Bearer {vertex.token}":
            return self._answer(401, {"error": {"code": 401, "message": "no token"}})
        path = path.replace(NUMBERED, PARENT)
        for verb, pattern, answer in self.server.routes:
            if verb == method and (found := re.fullmatch(pattern, path)):
                try:
                    status, content = answer(vertex, json.loads(body or b"{}"), parse_qs(url.query), *found.groups())
                except json_format.ParseError as error:
                    status, content = 400, {"error": {"code": 400, "message": str(error)}}
                if vertex.loses(method, path):
                    self.close_connection = True
                    return self.connection.close()
                return self._answer(status, content)
        return self._answer(404, {"error": {"code": 404, "message": f"{path} is not there"}})

    def _answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
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


Answer = tuple[int, dict[str, Any]]


def read(body: dict[str, Any], message: Any) -> Any:
    """Return the body as a message; a key that it does not have is a ParseError."""
    return message.wrap(json_format.ParseDict(body, message.pb()()))


def upload(vertex: Vertex, body: dict[str, Any], _: Any) -> Answer:
    request = read({**body, "parent": PARENT}, aiplatform_v1.UploadModelRequest)
    if vertex.refuse_upload:
        return 200, started(vertex, {"error": {"code": 9, "message": vertex.refuse_upload}})
    model = request.model_id or request.parent_model.removeprefix(f"{PARENT}/models/")
    assert bool(request.model_id) != bool(request.parent_model)
    if request.parent_model and model not in vertex.models:
        return 404, {"error": {"code": 404, "message": "no such parent model"}}
    versions = vertex.models.setdefault(model, [])
    taken = {alias for each in versions for alias in each.aliases}
    asked = list(request.model.version_aliases)
    assert not taken & set(asked), "Vertex moves an alias by mergeVersionAliases only"
    versions.append(Version(request.model, asked + ([] if versions else ["default"])))
    response = {"model": f"{NUMBERED}/models/{model}", "modelVersionId": str(len(versions))}
    return 200, started(vertex, {"response": response})


def started(vertex: Vertex, outcome: dict[str, Any]) -> dict[str, Any]:
    name = f"{NUMBERED}/operations/{len(vertex.operations) + 1}"
    vertex.operations[name] = (vertex.polls, outcome)
    return {"name": name, "done": False}


def operation(vertex: Vertex, _: Any, __: Any, number: str) -> Answer:
    name = f"{NUMBERED}/operations/{number}"
    left, outcome = vertex.operations[name]
    vertex.operations[name] = (left - 1, outcome)
    return 200, {"name": name, "done": left <= 1, **(outcome if left <= 1 else {})}


def list_versions(vertex: Vertex, _: Any, query: dict[str, list[str]], model: str) -> Answer:
    """One version a page: whoever does not turn pages finds too little."""
    if model not in vertex.models:
        return 404, {"error": {"code": 404, "message": "no such model"}}
    at = int(query.get("pageToken", ["0"])[0] or 0)
    page = [described(vertex, model, number) for number in range(at + 1, at + 2)]
    more = {"nextPageToken": str(at + 1)} if at + 1 < len(vertex.models[model]) else {}
    return 200, {"models": page, **more}


def described(vertex: Vertex, model: str, number: int) -> dict[str, Any]:
    version = vertex.models[model][number - 1]
    content: dict[str, Any] = json_format.MessageToDict(type(version.model).pb(version.model))
    name = f"{NUMBERED}/models/{model}"
    return {**content, "name": name, "versionId": str(number), "versionAliases": version.aliases}


def list_evaluations(vertex: Vertex, _: Any, __: Any, model: str, number: str) -> Answer:
    found = vertex.models[model][int(number) - 1].evaluations
    return 200, {"modelEvaluations": [{"displayName": each.display_name} for each in found]} if found else {}


def import_evaluation(vertex: Vertex, body: dict[str, Any], _: Any, model: str, number: str) -> Answer:
    request = read({**body, "parent": PARENT}, aiplatform_v1.ImportModelEvaluationRequest)
    vertex.models[model][int(number) - 1].evaluations.append(request.model_evaluation)
    return 200, {"name": f"{NUMBERED}/models/{model}@{number}/evaluations/1"}


def merge_aliases(vertex: Vertex, body: dict[str, Any], _: Any, model: str, number: str) -> Answer:
    request = read({**body, "name": "x"}, aiplatform_v1.MergeVersionAliasesRequest)
    moved = set(request.version_aliases)
    for index, version in enumerate(vertex.models[model], 1):
        kept = [alias for alias in version.aliases if alias not in moved]
        version.aliases = kept + (sorted(moved) if index == int(number) else [])
    return 200, described(vertex, model, int(number))


MODEL = rf"{PARENT}/models/([a-z0-9_-]+)"
ROUTES = (
    ("POST", rf"{PARENT}/models:upload", upload),
    ("GET", rf"{PARENT}/operations/(\d+)", operation),
    ("GET", rf"{MODEL}:listVersions", list_versions),
    ("GET", rf"{MODEL}@(\d+)/evaluations", list_evaluations),
    ("POST", rf"{MODEL}@(\d+)/evaluations:import", import_evaluation),
    ("POST", rf"{MODEL}@(\d+):mergeVersionAliases", merge_aliases),
)


@contextlib.contextmanager
def served(vertex: Any, routes: Any) -> Iterator[str]:
    """Serve what `vertex` knows by `routes`; gives the server's address."""
    server = Server(("127.0.0.1", 0), Handler)
    server.vertex, server.routes = vertex, routes  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Server(http.server.ThreadingHTTPServer):
    """A server that does not mind clients that go away."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def vertex_served() -> Iterator[tuple[str, Vertex]]:
    """Serve Vertex AI's Model Registry; gives the server's address and what it knows."""
    vertex = Vertex()
    with served(vertex, ROUTES) as address:
        yield f"{address}/v1", vertex
