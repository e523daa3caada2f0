"""A server on this machine with the part of Vertex AI's REST API that the Model Registry needs.

It reads every body with Vertex's own messages, which refuse unknown keys, and stores those messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import json_format

from tests.support.servers.json_server import Answer, Json, Service, page_of, served

PARENT = "projects/p/locations/europe-west4"
NUMBERED = "projects/123456/locations/europe-west4"  # Vertex answers with the project's number
LOCATION = f"(?:{PARENT}|{NUMBERED})"
TOKEN = "a-token"


@dataclass
class VertexService(Service):
    """The paths, errors and token of Vertex AI."""

    token: str = TOKEN

    def path(self, path: str) -> str | None:
        return path.removeprefix("/v1/")

    def error(self, status: int, message: str) -> Json:
        return {"error": {"code": status, "message": message}}


@dataclass
class ModelVersion:
    """A version of a model."""

    model: Any
    aliases: list[str]
    evaluations: list[Any] = field(default_factory=list)


@dataclass
class Vertex(VertexService):
    """The state of the server: versions by model, and running uploads. With `lose_upload`, one upload gets no answer."""

    models: dict[str, list[ModelVersion]] = field(default_factory=dict)
    operations: dict[str, tuple[int, Json]] = field(default_factory=dict)
    polls: int = 2  # until an upload is done
    refuse_upload: str = ""
    lose_upload: bool = False

    def __post_init__(self) -> None:
        self.loses_answer = self._loses_upload

    def _loses_upload(self, method: str, path: str) -> bool:
        lost = self.lose_upload and path.endswith("models:upload")
        self.lose_upload = self.lose_upload and not lost
        return lost

    def alias(self, model: str, alias: str) -> str:
        """Return the number of the version that has an alias."""
        return next((str(n) for n, each in enumerate(self.models[model], 1) if alias in each.aliases), "")


def read(body: Json, message: Any) -> Any:
    """Return the body as a message. Raises ParseError for an unknown key."""
    return message.wrap(json_format.ParseDict(body, message.pb()()))


def content(message: Any) -> Json:
    """Return a message as JSON."""
    found: Json = json_format.MessageToDict(type(message).pb(message))
    return found


def upload(vertex: Vertex, body: Json, _: Any) -> Answer:
    request = read({**body, "parent": PARENT}, aiplatform_v1.UploadModelRequest)
    if vertex.refuse_upload:
        return 200, _operation(vertex, {"error": {"code": 9, "message": vertex.refuse_upload}})
    model = request.model_id or request.parent_model.removeprefix(f"{PARENT}/models/")
    assert bool(request.model_id) != bool(request.parent_model)
    if request.parent_model and model not in vertex.models:
        return 404, vertex.error(404, "no such parent model")
    versions = vertex.models.setdefault(model, [])
    taken = {alias for each in versions for alias in each.aliases}
    aliases = list(request.model.version_aliases)
    assert not taken & set(aliases), "Vertex moves an alias by mergeVersionAliases only"
    versions.append(ModelVersion(request.model, aliases + ([] if versions else ["default"])))
    return 200, _operation(vertex, {"response": {"model": f"{NUMBERED}/models/{model}", "modelVersionId": str(len(versions))}})


def _operation(vertex: Vertex, outcome: Json) -> Json:
    name = f"{NUMBERED}/operations/{len(vertex.operations) + 1}"
    vertex.operations[name] = (vertex.polls, outcome)
    return {"name": name, "done": False}


def get_operation(vertex: Vertex, _: Any, __: Any, number: str) -> Answer:
    name = f"{NUMBERED}/operations/{number}"
    left, outcome = vertex.operations[name]
    vertex.operations[name] = (left - 1, outcome)
    return 200, {"name": name, "done": left <= 1, **(outcome if left <= 1 else {})}


def list_versions(vertex: Vertex, _: Any, query: Json, model: str) -> Answer:
    if model not in vertex.models:
        return 404, vertex.error(404, "no such model")
    numbers, token = page_of(list(range(1, len(vertex.models[model]) + 1)), query, "pageToken")
    models = [_described(vertex, model, number) for number in numbers]
    return 200, {"models": models, **({"nextPageToken": token} if token else {})}


def _described(vertex: Vertex, model: str, number: int) -> Json:
    version = vertex.models[model][number - 1]
    name = f"{NUMBERED}/models/{model}"
    return {**content(version.model), "name": name, "versionId": str(number), "versionAliases": version.aliases}


def list_evaluations(vertex: Vertex, _: Any, __: Any, model: str, number: str) -> Answer:
    found = vertex.models[model][int(number) - 1].evaluations
    return 200, {"modelEvaluations": [{"displayName": each.display_name} for each in found]} if found else {}


def import_evaluation(vertex: Vertex, body: Json, _: Any, model: str, number: str) -> Answer:
    request = read({**body, "parent": PARENT}, aiplatform_v1.ImportModelEvaluationRequest)
    vertex.models[model][int(number) - 1].evaluations.append(request.model_evaluation)
    return 200, {"name": f"{NUMBERED}/models/{model}@{number}/evaluations/1"}


def merge_aliases(vertex: Vertex, body: Json, _: Any, model: str, number: str) -> Answer:
    request = read({**body, "name": "x"}, aiplatform_v1.MergeVersionAliasesRequest)
    moved = set(request.version_aliases)
    for index, version in enumerate(vertex.models[model], 1):
        others = [alias for alias in version.aliases if alias not in moved]
        version.aliases = others + (sorted(moved) if index == int(number) else [])
    return 200, _described(vertex, model, int(number))


MODEL = rf"{LOCATION}/models/([a-z0-9_-]+)"
Vertex.ROUTES = (
    ("POST", rf"{LOCATION}/models:upload", upload),
    ("GET", rf"{LOCATION}/operations/(\d+)", get_operation),
    ("GET", rf"{MODEL}:listVersions", list_versions),
    ("GET", rf"{MODEL}@(\d+)/evaluations", list_evaluations),
    ("POST", rf"{MODEL}@(\d+)/evaluations:import", import_evaluation),
    ("POST", rf"{MODEL}@(\d+):mergeVersionAliases", merge_aliases),
)


@contextlib.contextmanager
def vertex_served() -> Iterator[tuple[str, Vertex]]:
    """Serve Vertex AI's Model Registry; yields its URL and its state."""
    vertex = Vertex()
    with served(vertex) as url:
        yield f"{url}/v1", vertex
