"""Keeps a model in Vertex AI's Model Registry up to date with a registry: the champion, its scores, and the aliases."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from components.common import requests
from components.common.artifacts import Manifest
from components.common.errors import ConfigError, first_line
from components.common.requests import Failure, RemoteError, RetryingClient, UnknownOutcomeError, no_answer
from components.evaluate.metrics import table
from components.generator.generator import SAVED_MODEL
from components.push.registry.location import RegistryLocation, open_registry, version_location
from components.push.registry.registry import find_version, read_pointer, read_version

EVALUATION = "wgan-pipeline evaluate"
ALIASES = ("champion", "default")
ENDPOINT = "https://{location}-aiplatform.googleapis.com/v1"
POLL_SECONDS, UPLOAD_SECONDS = 5.0, 1800
CURE = "The registry is correct, but Vertex is outdated: run push again, with roles/aiplatform.user in that project."

Json = dict[str, Any]


class PublishedVersion(NamedTuple):
    """A version of a registry, with the gs:// URL of the folder that holds saved_model.pb."""

    version: str
    manifest: Manifest
    scores: Mapping[str, Any]
    artifact_uri: str


def update_vertex(vertex_model: str, serving_image: str, registry: RegistryLocation) -> str:
    """Upload the champion of `registry` to the model, import its scores, and move the aliases to it.

    What is already there is not repeated, so an interrupted call can be made again. Returns the version on Vertex
    (projects/P/locations/L/models/M@2), empty when nothing is in service. Raises RemoteError when Vertex refuses.
    """
    champion = _champion(registry)
    if champion is None:
        return ""
    parent, _, model = vertex_model.rpartition("/models/")
    digest = labels_of(champion)["digest"]
    try:
        vertex = _ModelRegistry(parent)
        versions = vertex.versions(model)
        found = [each for each in versions or [] if each.get("labels", {}).get("digest") == digest]
        name = _version_name(found[0]["name"], found[0]["versionId"]) if found else ""
        if not name:
            body = upload_request(champion, parent=parent, model=model, serving_image=serving_image, first=versions is None)
            name = vertex.upload(body)
        if EVALUATION not in vertex.evaluations(name):
            vertex.post("import the scores", f"{name}/evaluations:import", evaluation_request(champion.scores))
        # Last: whoever resolves the alias finds a model that is complete, with its scores.
        vertex.post("move the aliases", f"{name}:mergeVersionAliases", {"versionAliases": list(ALIASES)})
    except RemoteError as error:
        raise RemoteError(error.problem, CURE, error.status) from None
    return name


def _champion(registry: RegistryLocation) -> PublishedVersion | None:
    with open_registry(registry) as folder:
        pointer = read_pointer(folder)
        if pointer is None:
            return None
        manifest, scores = read_version(find_version(folder, pointer.version), verify=False)
    return PublishedVersion(pointer.version, manifest, scores, f"{version_location(registry, pointer.version)}/{SAVED_MODEL}")


def _version_name(model: str, number: str) -> str:
    return f"{model.partition('@')[0]}@{number}"


def upload_request(published: PublishedVersion, *, parent: str, model: str, serving_image: str, first: bool) -> Json:
    """Return an UploadModelRequest that creates the model with its `first` version, or adds a version to it.

    parent: projects/P/locations/L; serving_image: the container that serves it. Raises ConfigError if Vertex cannot read it.
    """
    if not published.artifact_uri.startswith("gs://"):
        raise ConfigError(f"Vertex cannot read {published.artifact_uri}.", "Use a gs:// URL as push.registry.")
    return {
        **({"modelId": model} if first else {"parentModel": f"{parent}/models/{model}"}),
        "model": {
            "displayName": model,
            "versionAliases": [published.version],
            "versionDescription": f"Registry version {published.version}, digest {published.manifest.digest}",
            "artifactUri": published.artifact_uri,
            "containerSpec": {"imageUri": serving_image},
            "labels": labels_of(published),
        },
    }


def labels_of(published: PublishedVersion) -> dict[str, str]:
    """Return a version's labels. A label has at most 63 characters, a digest 64."""
    manifest = published.manifest
    return {
        "version": published.version,
        "digest": manifest.digest[:63],
        "model-digest": manifest.inputs["model"][:63],
        "image-size": str(manifest.details["image_size"]),
        "channels": str(manifest.details["channels"]),
    }


def evaluation_request(scores: Mapping[str, Any]) -> Json:
    """Return an ImportModelEvaluationRequest: the metrics of the page "vertex" that have a value, with their provenance."""
    names = [name for metric in table.metrics_on("vertex") for name in (metric.name, metric.error)]
    return {
        "modelEvaluation": {
            "displayName": EVALUATION,
            "metrics": {name: float(scores[name]) for name in names if scores.get(name) is not None},
            "metadata": {"provenance": scores["provenance"]},
        },
    }


class _ModelRegistry:
    """The part of Vertex AI's REST API that models need, used with the account of this process. Raises RemoteError."""

    def __init__(self, parent: str) -> None:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import AuthorizedSession

        self._parent = parent
        self._endpoint = ENDPOINT.format(location=parent.rpartition("/")[2])
        try:
            credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        except GoogleAuthError as error:
            raise RemoteError(f"There is no Google account to use Vertex with: {first_line(error)}.") from None
        self._session: Any = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
        self._client = RetryingClient("Vertex", _failure, {})

    def versions(self, model: str) -> list[Json] | None:
        """Return the versions of a model, None if there is no such model."""
        return self._list("list the versions", f"{self._parent}/models/{model}:listVersions", "models")

    def evaluations(self, name: str) -> list[str]:
        """Return the display names of a version's evaluations."""
        found = self._list("list the evaluations", f"{name}/evaluations", "modelEvaluations")
        return [str(each.get("displayName")) for each in found or []]

    def upload(self, body: Json) -> str:
        """Upload a model, wait until Vertex has it, and return its version."""
        operation = self.post("upload the model", f"{self._parent}/models:upload", body)
        deadline = time.monotonic() + UPLOAD_SECONDS
        while not operation.get("done"):
            if time.monotonic() > deadline:
                raise RemoteError(
                    f"Vertex has not finished {operation['name']} after {UPLOAD_SECONDS // 60} minutes; wait until it has."
                )
            time.sleep(POLL_SECONDS)
            operation = self._call("check the upload", "GET", operation["name"])
        if problem := operation.get("error"):
            raise RemoteError(f"Vertex cannot import the model: {problem.get('message', problem)}.")
        answer = operation["response"]
        return _version_name(answer["model"], answer["modelVersionId"])

    def post(self, what: str, path: str, body: Json) -> Json:
        """Send a body once and return the answer; a request that may have been carried out is not repeated."""
        try:
            return self._call(what, "POST", path, body)
        except UnknownOutcomeError as error:
            raise RemoteError(f"It is not known whether Vertex carried out the request to {what}: {error}.") from None

    def _list(self, what: str, path: str, key: str) -> list[Json] | None:
        found: list[Json] = []
        token = ""
        while True:
            try:
                page = self._call(what, "GET", f"{path}?pageSize=100&pageToken={token}")
            except RemoteError as error:
                if error.status == 404:
                    return None
                raise
            found += page.get(key, [])
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def _call(self, what: str, method: str, path: str, body: Json | None = None) -> Json:
        def send() -> Json:
            response = self._session.request(method, f"{self._endpoint}/{path}", json=body, timeout=requests.REQUEST_SECONDS)
            response.raise_for_status()
            answer: Json = response.json()
            return answer

        return self._client.call(what, send, creates=method == "POST")


def _failure(error: Exception) -> Failure | None:
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests import HTTPError, RequestException

    if isinstance(error, HTTPError):
        try:
            message = error.response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = error.response.reason
        return Failure(error.response.status_code, first_line(str(message)), error.response.headers)
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        raise RemoteError(f"Google refuses this account a token: {first_line(error)}.") from None
    if isinstance(error, (RequestException, TransportError)):
        return no_answer(error, received=isinstance(error, RequestException) and "NewConnectionError" not in repr(error))
    return None
