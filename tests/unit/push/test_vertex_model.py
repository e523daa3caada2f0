"""Updating Vertex AI's Model Registry: the real session with credentials, and a local server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError
from google.oauth2.credentials import Credentials
from typer.testing import CliRunner

from components.common import requests
from components.common.artifacts import read_manifest
from components.common.errors import ConfigError
from components.common.requests import RemoteError
from components.evaluate.metrics import table
from components.push import vertex_model
from components.push.vertex_model import evaluation_request
from components.registry.registry import Registry
from pipeline.cli import app
from pipeline.config import load_config
from tests.support.push_bench import SCORES, Bench
from tests.support.servers.vertex_server import NUMBERED, PARENT, TOKEN, Vertex, vertex_served

MODEL = f"{PARENT}/models/digits"
REGISTRY = "memory://models"  # instead of gs://


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Registry, "version_location", lambda _, version: f"gs://bucket/{version}")
    fsspec.filesystem("memory").store.clear()
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def vertex(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vertex]:
    with vertex_served() as (address, vertex):
        monkeypatch.setattr(vertex_model, "ENDPOINT", address)
        monkeypatch.setattr(requests, "FIRST_WAIT_SECONDS", 0.01)
        monkeypatch.setattr(vertex_model, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(google.auth, "default", lambda **_: (Credentials(TOKEN), "p"))
        yield vertex


def push(bench: Bench, inputs: dict[str, Path]) -> Any:
    """Push with push.vertex_model; the config would refuse a registry that is not at gs:// (tested below)."""
    from components.push import run
    from components.push.config import PushConfig

    config = PushConfig.model_construct(**{**PushConfig().model_dump(), "vertex_model": MODEL})
    return run.run(config, registry=REGISTRY, **inputs, verdict=bench.judge(inputs, REGISTRY), out=bench.root / "push")


def vertex_version(bench: Bench) -> str:
    return str(read_manifest(bench.root / "push", "push").details["vertex_version"])


def test_the_champion_is_a_version_with_scores_and_alias(bench: Bench, vertex: Vertex) -> None:
    assert push(bench, bench.candidate(kid=0.06)).decision == "published"
    assert vertex_version(bench) == f"{NUMBERED}/models/digits@1"
    better = bench.candidate(kid=0.04)
    assert push(bench, better).version == "v0002"
    assert vertex_version(bench) == f"{NUMBERED}/models/digits@2"
    first, second = vertex.models["digits"]
    assert (first.aliases, second.aliases) == (["v0001"], ["v0002", "champion", "default"])
    assert second.model.artifact_uri == "gs://bucket/v0002/saved_model"
    assert second.model.container_spec.image_uri.endswith("tf2-cpu.2-15:latest")
    assert dict(second.model.labels)["model-digest"] == read_manifest(better["model"]).digest[:63]
    (evaluation,) = second.evaluations
    names = ("kid", "kid_std", "fid", "precision", "recall", "density", "coverage", "memorization")
    assert dict(evaluation.metrics) == {name: (SCORES | {"kid": 0.04})[name] for name in names}
    assert evaluation.metadata["provenance"]["samples"] == 600


def test_a_metric_of_the_table_is_in_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    added = dataclasses.replace(table.METRICS[0], name="symmetry", error="symmetry_std")
    monkeypatch.setattr(table, "METRICS", (*table.METRICS, added))
    metrics = evaluation_request(SCORES | {"symmetry": 0.5, "symmetry_std": 0.1})["modelEvaluation"]["metrics"]
    assert (metrics["symmetry"], metrics["symmetry_std"]) == (0.5, 0.1)


def test_a_second_push_changes_nothing(bench: Bench, vertex: Vertex) -> None:
    inputs = bench.candidate()
    push(bench, inputs)
    before = len(vertex.requests)
    assert push(bench, inputs).decision == "unchanged"
    assert [request for request in vertex.requests[before:] if request.startswith("POST")] == [
        f"POST {NUMBERED}/models/digits@1:mergeVersionAliases"
    ]
    assert len(vertex.models["digits"]) == len(vertex.models["digits"][0].evaluations) == 1


def test_a_model_that_is_kept_out_leaves_the_alias(bench: Bench, vertex: Vertex) -> None:
    push(bench, bench.candidate(kid=0.04))
    assert push(bench, bench.candidate(kid=0.07)).decision == "kept"
    assert vertex.alias("digits", "champion") == "1"
    assert len(vertex.models["digits"]) == 1


def test_no_request_while_nothing_is_in_service(bench: Bench, vertex: Vertex) -> None:
    assert push(bench, bench.candidate(memorization=0.9)).decision == "kept"
    assert vertex_version(bench) == ""
    assert vertex.requests == []


def test_a_rollback_moves_the_alias(bench: Bench, vertex: Vertex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kid in (0.06, 0.04):
        push(bench, bench.candidate(kid=kid))
    config = tmp_path / "c.toml"
    config.write_text(f'[push]\nregistry = "gs://models"\nvertex_model = "{MODEL}"\n')
    monkeypatch.setattr("components.common.store.find_filesystem", lambda _: (fsspec.filesystem("memory"), "/models"))
    done = CliRunner().invoke(app, ["registry", "rollback", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert done.output == f"v0001 is in service; it replaces v0002.\nOn Vertex AI it is {NUMBERED}/models/digits@1.\n"
    assert vertex.alias("digits", "champion") == vertex.alias("digits", "default") == "1"


class TestFaults:
    @pytest.mark.parametrize("at", ["models:upload", "operations", "evaluations:import", "mergeVersionAliases"])
    def test_the_next_push_continues_after_an_interruption(self, bench: Bench, vertex: Vertex, at: str) -> None:
        vertex.fault = lambda _, path: (403, {}) if at in path else None
        inputs = bench.candidate()
        with pytest.raises(
            RemoteError, match=r"Vertex answered 403 to the request to .*: injected by the test\. The registry is correct"
        ):
            push(bench, inputs)
        vertex.fault = lambda *_: None
        assert push(bench, inputs).decision == "unchanged"
        (version,) = vertex.models["digits"]
        assert version.aliases == ["v0001", "champion", "default"]
        assert len(version.evaluations) == 1

    def test_an_upload_whose_answer_is_lost_is_not_done_twice(self, bench: Bench, vertex: Vertex) -> None:
        vertex.lose_upload = True
        inputs = bench.candidate()
        with pytest.raises(RemoteError, match="not known whether Vertex carried out the request to upload the model"):
            push(bench, inputs)
        push(bench, inputs)
        assert len(vertex.models["digits"]) == 1
        assert vertex.alias("digits", "champion") == "1"

    def test_temporary_failures_are_retried(self, bench: Bench, vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> None:
        left = {"GET": [503, 429, 500], "POST": [429, 429]}
        waited: list[float] = []
        monkeypatch.setattr(requests.time, "sleep", waited.append)

        def busy(method: str, _: str) -> tuple[int, dict[str, str]] | None:
            return (left[method].pop(), {"Retry-After": "7"}) if left[method] else None

        vertex.fault = busy
        push(bench, bench.candidate())
        assert waited.count(7.0) == 5
        assert vertex.alias("digits", "champion") == "1"

    def test_retries_end(self, bench: Bench, vertex: Vertex) -> None:
        vertex.fault = lambda *_: (503, {})
        with pytest.raises(RemoteError, match="Vertex answered 503 to the request to list the versions"):
            push(bench, bench.candidate())
        assert len(vertex.requests) == requests.TRIES

    def test_error_for_a_model_that_vertex_refuses(self, bench: Bench, vertex: Vertex) -> None:
        vertex.refuse_upload = "The directory holds no SavedModel."
        with pytest.raises(RemoteError, match=r"Vertex cannot import the model: The directory holds no SavedModel\."):
            push(bench, bench.candidate())

    def test_error_for_an_upload_that_does_not_end(self, bench: Bench, vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> None:
        vertex.polls = 10**9
        monkeypatch.setattr(vertex_model, "UPLOAD_SECONDS", 0.2)
        with pytest.raises(RemoteError, match=r"Vertex has not finished projects/123456/.* wait until it has\. .* run push"):
            push(bench, bench.candidate())

    def test_error_without_an_account(self, bench: Bench, vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(**_: Any) -> None:
            raise DefaultCredentialsError("Your default credentials were not found")  # type: ignore[no-untyped-call]

        monkeypatch.setattr(google.auth, "default", none)
        with pytest.raises(RemoteError, match="There is no Google account to use Vertex with: Your default credentials"):
            push(bench, bench.candidate())

    def test_error_for_an_invalid_token(self, bench: Bench, vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(google.auth, "default", lambda **_: (Credentials("old"), "p"))
        with pytest.raises(RemoteError, match=r"Google refuses this account a token: .*refresh"):
            push(bench, bench.candidate())


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        ([f"push.vertex_model={MODEL}"], "push.vertex_model needs push.registry to be a gs:// URL, not ''"),
        (
            ["push.vertex_model=digits", "push.registry=gs://b/r"],
            "push.vertex_model = 'digits': use projects/PROJECT/",
        ),
        ([f"push.vertex_model={MODEL}!", "push.registry=gs://b/r"], "NAME has at most 63 characters of a-z"),
    ],
)
def test_config_errors(sets: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, sets)
    assert sentence in str(caught.value)


def test_error_for_a_model_outside_a_bucket(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.push(bench.candidate())
    monkeypatch.setattr(Registry, "version_location", lambda _, version: f"models/{version}")
    with pytest.raises(ConfigError, match="Vertex cannot read models/v0001/saved_model"):
        vertex_model.update_vertex(MODEL, "image", Registry(bench.registry))
