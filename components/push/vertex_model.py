"""Vertex AI's Model Registry told what a registry holds: the champion, its scores, and that it is the champion."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from components.common.artifacts import Manifest
from components.common.errors import ArtifactError, ConfigError, first_line
from components.generator.generator import SAVED_MODEL
from components.push.registry.location import Place, location_of, opened_to_read
from components.push.registry.registry import SCORES_FILE, VERSIONS, Pointer, read_pointer

METRICS = ("kid", "kid_std", "fid", "precision", "recall", "density", "coverage", "memorization")
EVALUATION = "wgan-pipeline evaluate"
ALIASES = ("champion", "default")
ENDPOINT = "https://{location}-aiplatform.googleapis.com/v1"
TRIES, REQUEST_SECONDS, UPLOAD_SECONDS, MOST_SECONDS = 5, 60, 1800, 120.0
CURE = "The registry is right, only Vertex does not know; run push again: it needs roles/aiplatform.user in that project."
# Asking again is safe after these; an upload that answered 5xx may have been done, and the next push looks for it first.
BUSY, BROKEN = (429,), (500, 502, 503, 504)

Json = dict[str, Any]


class Published(NamedTuple):
    """A version of a registry, as Vertex is told of it."""

    version: str
    manifest: Manifest
    scores: Mapping[str, Any]
    artifact_uri: str  # gs:// address of the folder that holds saved_model.pb


def tell_vertex(vertex_model: str, serving_image: str, registry: Place) -> str:
    """Bring Vertex's Model Registry to what `registry` says: upload the champion, import its scores, move the aliases.

    What is there already is left alone, so that it may be called again after any end. Returns the model's version on Vertex
    (projects/P/locations/L/models/M@2), empty where nothing is in service. Raises ArtifactError when Vertex refuses.
    """
    champion = _champion(registry)
    if champion is None:
        return ""
    parent, _, model = vertex_model.rpartition("/models/")
    vertex = _Vertex(parent)
    versions = vertex.versions(model)
    digest = labels_of(champion)["digest"]
    name = next((_name_of(each) for each in versions or [] if each.get("labels", {}).get("digest") == digest), "")
    if not name:
        body = upload_request(champion, parent=parent, model=model, serving_image=serving_image, first=versions is None)
        name = vertex.upload(body)
    if EVALUATION not in vertex.evaluations(name):
        vertex.post(
            f"{name}/evaluations:import", evaluation_request(model_version=name, scores=champion.scores), "import its scores"
        )
    # Last: who asks for the alias champion gets a model that is there with its scores.
    vertex.post(f"{name}:mergeVersionAliases", {"versionAliases": list(ALIASES)}, "move the alias champion")
    return name


def _champion(registry: Place) -> Published | None:
    with opened_to_read(registry) as place:
        pointer: Pointer | None = read_pointer(place)
        if pointer is None:
            return None
        folder = place / VERSIONS / pointer.version
        try:
            manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
            scores = json.loads((folder / SCORES_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder} cannot be read: {error}.", "Put another version into service.") from error
    return Published(pointer.version, manifest, scores, f"{location_of(registry, pointer.version)}/{SAVED_MODEL}")


def _name_of(model: Json) -> str:
    return f"{model['name'].partition('@')[0]}@{model['versionId']}"


def upload_request(published: Published, *, parent: str, model: str, serving_image: str, first: bool) -> Json:
    """Return an UploadModelRequest: a model when it is the `first` version, else a version of the model that is there.

    parent: projects/P/locations/L; serving_image: the container that serves it. Raises ConfigError for what Vertex refuses.
    """
    if not published.artifact_uri.startswith("gs://"):
        raise ConfigError(f"Vertex cannot read {published.artifact_uri}.", "Name a gs:// address with push.registry.")
    place = {"modelId": model} if first else {"parentModel": f"{parent}/models/{model}"}
    return {
        **place,
        "model": {
            "displayName": model,
            "versionAliases": [published.version],
            "versionDescription": f"Registry version {published.version}, digest {published.manifest.digest}",
            "artifactUri": published.artifact_uri,
            "containerSpec": {"imageUri": serving_image},
            "labels": labels_of(published),
        },
    }


def labels_of(published: Published) -> dict[str, str]:
    """Return a version's labels. A whole digest has one character more than a label may have."""
    manifest = published.manifest
    return {
        "version": published.version,
        "digest": manifest.digest[:63],
        "model-digest": manifest.inputs["model"][:63],
        "image-size": str(manifest.details["image_size"]),
        "channels": str(manifest.details["channels"]),
    }


def evaluation_request(*, model_version: str, scores: Mapping[str, Any]) -> Json:
    """Return an ImportModelEvaluationRequest with the scores as metrics and their provenance as metadata.

    model_version: projects/P/locations/L/models/M@VERSION.
    """
    if not re.fullmatch(r"projects/[^/]+/locations/[^/]+/models/[^/@]+@[^/@]+", model_version):
        raise ConfigError(f"{model_version!r} is no version of a model.", "Use projects/P/locations/L/models/M@VERSION.")
    return {
        "modelEvaluation": {
            "displayName": EVALUATION,
            "metrics": {name: float(scores[name]) for name in METRICS},
            "metadata": {"provenance": scores["provenance"]},
        },
    }


class _Vertex:
    """As much of Vertex AI's REST protocol as a model takes, with the account that the process runs under."""

    def __init__(self, parent: str) -> None:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import AuthorizedSession

        self._parent = parent
        self._endpoint = ENDPOINT.format(location=parent.rpartition("/")[2])
        try:
            credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        except GoogleAuthError as error:
            raise ArtifactError(f"There is no Google account to tell Vertex with: {first_line(error)}.", CURE) from None
        self._session: Any = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]

    def versions(self, model: str) -> list[Json] | None:
        """Return the versions of a model, None where there is no such model."""
        return self._all(f"{self._parent}/models/{model}:listVersions", "models", "list its versions")

    def evaluations(self, name: str) -> list[str]:
        """Return the names that the evaluations of a version show."""
        found = self._all(f"{name}/evaluations", "modelEvaluations", "list its evaluations")
        return [str(each.get("displayName")) for each in found or []]

    def upload(self, body: Json) -> str:
        """Upload a model and wait until Vertex has it; return its version."""
        operation = self.post(f"{self._parent}/models:upload", body, "upload the model")
        until = time.monotonic() + UPLOAD_SECONDS
        for seconds in _growing(2.0, 30.0):
            if operation.get("done"):
                break
            if time.monotonic() > until:
                raise ArtifactError(
                    f"Vertex has not finished {operation['name']} after {UPLOAD_SECONDS // 60} minutes.",
                    "Run push again when it has: what is there is found.",
                )
            time.sleep(seconds)
            operation = self._call("GET", operation["name"], None, "ask how far the upload is") or {}
        if problem := operation.get("error"):
            raise ArtifactError(f"Vertex cannot take the model: {problem.get('message', problem)}.", CURE)
        answer = operation["response"]
        return f"{answer['model'].partition('@')[0]}@{answer['modelVersionId']}"

    def post(self, path: str, body: Json, what: str) -> Json:
        """Send a body and return the answer."""
        answer = self._call("POST", path, body, what)
        if answer is None:
            raise ArtifactError(f"Vertex cannot {what}: {path} is not there.", CURE)
        return answer

    def _all(self, path: str, key: str, what: str) -> list[Json] | None:
        found: list[Json] = []
        token = ""
        while True:
            answer = self._call("GET", f"{path}?pageSize=100&pageToken={token}", None, what)
            if answer is None:
                return None
            found += answer.get(key, [])
            token = answer.get("nextPageToken", "")
            if not token:
                return found

    def _call(self, method: str, path: str, body: Json | None, what: str) -> Json | None:
        """Return the answer, None for 404. Asks again where that cannot do a thing twice."""
        import requests
        from google.auth.exceptions import GoogleAuthError

        again = BUSY if method == "POST" else BUSY + BROKEN
        for turn, seconds in zip(range(1, TRIES + 1), _growing(1.0, 16.0), strict=False):
            try:
                response = self._session.request(method, f"{self._endpoint}/{path}", json=body, timeout=REQUEST_SECONDS)
            except (requests.RequestException, GoogleAuthError) as error:
                if method == "POST" or turn == TRIES or isinstance(error, GoogleAuthError):
                    raise ArtifactError(f"Vertex could not be asked to {what}: {first_line(error)}.", CURE) from None
            else:
                if response.status_code not in again or turn == TRIES:
                    return _content(response, what)
                seconds = _seconds_to_wait(response.headers.get("Retry-After", ""), seconds)
            time.sleep(seconds)
        raise AssertionError("the last turn returns or raises")


def _content(response: Any, what: str) -> Json | None:
    if response.status_code == 404:
        return None
    try:
        content: Json = response.json()
    except ValueError:
        content = {}
    if response.ok:
        return content
    problem = content.get("error", {})
    said = problem.get("message") if isinstance(problem, dict) else problem
    raise ArtifactError(f"Vertex answered {response.status_code} when asked to {what}: {said or response.reason}.", CURE)


def _seconds_to_wait(asked: str, otherwise: float) -> float:
    return min(float(asked), MOST_SECONDS) if asked.isdigit() else otherwise


def _growing(first: float, most: float) -> Iterator[float]:
    while True:
        yield first
        first = min(2 * first, most)
