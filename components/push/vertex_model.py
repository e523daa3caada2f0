"""Keeps a model in Vertex AI's Model Registry up to date with a registry: the champion, its scores, and the aliases."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from components.common import requests
from components.common.errors import ConfigError, first_line
from components.common.requests import Failure, RemoteError, RetryingClient, UnknownOutcomeError, no_answer
from components.evaluate.metrics import table
from components.generator.generator import SAVED_MODEL
from components.registry.registry import Champion, Registry

EVALUATION = "wgan-pipeline evaluate"
ALIASES = ("champion", "default")
ENDPOINT = "https://{location}-aiplatform.googleapis.com/v1"
POLL_SECONDS, UPLOAD_SECONDS = 5.0, 1800
CURE = "The registry is correct, but Vertex is outdated: run push again, with roles/aiplatform.user in that project."

Json = dict[str, Any]


def update_vertex(vertex_model: str, serving_image: str, registry: Registry) -> str:
    """Upload the champion of `registry` to the model, import its scores, and move the aliases to it.

    What is already there is not repeated, so an interrupted call can be made again. Returns the version on Vertex
    (projects/P/locations/L/models/M@2), empty when nothing is in service. Raises RemoteError when Vertex refuses, ConfigError
    when it cannot read the registry.
    """
    champion = registry.champion()
    if champion is None:
        return ""
    artifact_uri = f"{registry.version_location(champion.version)}/{SAVED_MODEL}"
    if not artifact_uri.startswith("gs://"):
        raise ConfigError(f"Vertex cannot read {artifact_uri}.", "Use a gs:// URL as push.registry.")
    try:
        vertex = _ModelRegistry(vertex_model)
        versions = vertex.items("list the versions", f"{vertex_model}:listVersions", "models")
        found = [each for each in versions or [] if each.get("labels", {}).get("digest") == _digest_label(champion.digest)]
        if found:
            name = _version_name(found[0]["name"], found[0]["versionId"])
        else:
            name = vertex.upload(_upload_request(champion, artifact_uri, vertex_model, serving_image, first=versions is None))
        evaluations = vertex.items("list the evaluations", f"{name}/evaluations", "modelEvaluations")
        if not any(each.get("displayName") == EVALUATION for each in evaluations or []):
            vertex.post("import the scores", f"{name}/evaluations:import", evaluation_request(champion.scores))
        # Last: a client that resolves the alias finds a complete model with its scores.
        vertex.post("move the aliases", f"{name}:mergeVersionAliases", {"versionAliases": list(ALIASES)})
    except RemoteError as error:
        raise RemoteError(error.problem, CURE, error.status) from None
    return name


def _version_name(model: str, number: str) -> str:
    return f"{model.partition('@')[0]}@{number}"


def _digest_label(digest: str) -> str:
    return digest[:63]  # a label has at most 63 characters, a digest 64


def _upload_request(champion: Champion, artifact_uri: str, vertex_model: str, serving_image: str, *, first: bool) -> Json:
    """Return an UploadModelRequest that creates the model with its `first` version, or adds a version to it."""
    model_id = vertex_model.rpartition("/")[2]
    return {
        **({"modelId": model_id} if first else {"parentModel": vertex_model}),
        "model": {
            "displayName": model_id,
            "versionAliases": [champion.version],
            "versionDescription": f"Registry version {champion.version}, digest {champion.digest}",
            "artifactUri": artifact_uri,
            "containerSpec": {"imageUri": serving_image},
            "labels": {
                "version": champion.version,
                "digest": _digest_label(champion.digest),
                "model-digest": _digest_label(champion.model_digest),
                "image-size": str(champion.image_size),
                "channels": str(champion.channels),
            },
        },
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

    def __init__(self, vertex_model: str) -> None:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import AuthorizedSession

        self._parent = vertex_model.partition("/models/")[0]
        self._endpoint = ENDPOINT.format(location=self._parent.rpartition("/")[2])
        try:
            credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        except GoogleAuthError as error:
            raise RemoteError(f"There is no Google account to use Vertex with: {first_line(error)}.") from None
        self._session: Any = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
        self._client = RetryingClient("Vertex", _failure, {})

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

    def items(self, what: str, path: str, key: str) -> list[Json] | None:
        """Return the items of all pages, None if there is no such model."""
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
