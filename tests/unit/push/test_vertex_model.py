"""Vertex AI's Model Registry told of the champion: the true credentials' session against a server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError
from google.oauth2.credentials import Credentials
from typer.testing import CliRunner

from components.common.artifacts import Manifest, read_manifest
from components.common.errors import ArtifactError, ConfigError
from components.push import vertex_model
from components.push.gate import rescoring
from components.push.registry import publish
from components.push.vertex_model import METRICS, Published, upload_request
from pipeline.cli import app
from pipeline.config import load_config
from tests.support.push_bench import SCORES, Bench, rescored, write_shared
from tests.support.vertex_server import NUMBERED, PARENT, TOKEN, Vertex, vertex_served

MODEL = f"{PARENT}/models/digits"
REGISTRY = "memory://models"  # in the place of gs://: what this is about is Vertex


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shared(tmp_path_factory.mktemp("push"))


@pytest.fixture
def bench(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(publish, "check_loads", lambda *_: None)
    monkeypatch.setattr(rescoring, "rescored", rescored)
    monkeypatch.setattr(
        vertex_model, "location_of", lambda registry, version: f"gs://bucket/{version}" if registry == REGISTRY else "/tmp"
    )
    fsspec.filesystem("memory").store.clear()
    yield Bench(tmp_path, shared)
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def vertex(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vertex]:
    with vertex_served() as (address, vertex):
        monkeypatch.setattr(vertex_model, "ENDPOINT", address)
        monkeypatch.setattr(vertex_model, "_growing", lambda *_: iter([0.01] * 1000))
        monkeypatch.setattr(google.auth, "default", lambda **_: (Credentials(TOKEN), "p"))
        yield vertex


def push(bench: Bench, inputs: dict[str, Path]) -> Any:
    """Push as with push.vertex_model; the check that the registry is at gs:// is the config's, below."""
    from components.push import run
    from components.push.config import PushConfig

    config = PushConfig.model_construct(**{**PushConfig().model_dump(), "vertex_model": MODEL})
    return run.run(config, registry=REGISTRY, **inputs, out=bench.root / "push")


def told(bench: Bench) -> str:
    return str(read_manifest(bench.root / "push", "push").details["vertex_version"])


def test_the_champion_is_a_version_with_scores_and_alias(bench: Bench, vertex: Vertex) -> None:
    assert push(bench, bench.candidate(kid=0.06)).decision == "published"
    assert told(bench) == f"{NUMBERED}/models/digits@1"
    better = bench.candidate(kid=0.04)
    assert push(bench, better).version == "v0002"
    assert told(bench) == f"{NUMBERED}/models/digits@2"
    first, second = vertex.models["digits"]
    assert (first.aliases, second.aliases) == (["v0001"], ["v0002", "champion", "default"])
    assert second.model.artifact_uri == "gs://bucket/v0002/saved_model"
    assert second.model.container_spec.image_uri.endswith("tf2-cpu.2-15:latest")
    assert dict(second.model.labels)["model-digest"] == read_manifest(better["model"]).digest[:63]
    (evaluation,) = second.evaluations
    assert {name: evaluation.metrics[name] for name in METRICS} == {name: (SCORES | {"kid": 0.04})[name] for name in METRICS}
    assert evaluation.metadata["provenance"]["samples"] == 600


def test_again_changes_nothing(bench: Bench, vertex: Vertex) -> None:
    inputs = bench.candidate()
    push(bench, inputs)
    asked = len(vertex.requests)
    assert push(bench, inputs).decision == "unchanged"
    assert [request for request in vertex.requests[asked:] if request.startswith("POST")] == [
        f"POST {NUMBERED}/models/digits@1:mergeVersionAliases"
    ]
    assert len(vertex.models["digits"]) == len(vertex.models["digits"][0].evaluations) == 1


def test_a_model_that_is_kept_out_leaves_the_alias(bench: Bench, vertex: Vertex) -> None:
    push(bench, bench.candidate(kid=0.04))
    assert push(bench, bench.candidate(kid=0.07)).decision == "kept"
    assert vertex.alias("digits", "champion") == "1"
    assert len(vertex.models["digits"]) == 1


def test_nothing_in_service_is_nothing_to_tell(bench: Bench, vertex: Vertex) -> None:
    assert push(bench, bench.candidate(memorization=0.9)).decision == "kept"
    assert told(bench) == ""
    assert vertex.requests == []


def test_a_rollback_moves_the_alias(bench: Bench, vertex: Vertex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.push.registry import location

    for kid in (0.06, 0.04):
        push(bench, bench.candidate(kid=kid))
    config = tmp_path / "c.toml"
    config.write_text(f'[push]\nregistry = "gs://models"\nvertex_model = "{MODEL}"\n')
    monkeypatch.setattr(location, "is_address", lambda _: True)
    monkeypatch.setattr("components.push.registry.remote.find_filesystem", lambda _: (fsspec.filesystem("memory"), "/models"))
    monkeypatch.setattr(vertex_model, "location_of", lambda registry, version: f"gs://bucket/{version}")
    done = CliRunner().invoke(app, ["registry", "rollback", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert done.output == f"v0001 is in service; it replaces v0002.\nOn Vertex AI it is {NUMBERED}/models/digits@1.\n"
    assert vertex.alias("digits", "champion") == vertex.alias("digits", "default") == "1"


class TestFaults:
    @pytest.mark.parametrize("at", ["models:upload", "operations", "evaluations:import", "mergeVersionAliases"])
    def test_cut_off_anywhere_the_next_push_finishes(self, bench: Bench, vertex: Vertex, at: str) -> None:
        vertex.fault = lambda _, path: (403, {}) if at in path else None
        inputs = bench.candidate()
        with pytest.raises(
            ArtifactError, match=r"Vertex answered 403 when asked to .*: as requested by the test\. The registry is"
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
        with pytest.raises(ArtifactError, match="Vertex could not be asked to upload the model"):
            push(bench, inputs)
        push(bench, inputs)
        assert len(vertex.models["digits"]) == 1
        assert vertex.alias("digits", "champion") == "1"

    def test_what_passes_is_asked_again(self, bench: Bench, vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> None:
        left = {"GET": [503, 429, 500], "POST": [429, 429]}
        waited: list[float] = []
        monkeypatch.setattr(vertex_model.time, "sleep", waited.append)

        def busy(method: str, _: str) -> tuple[int, dict[str, str]] | None:
            return (left[method].pop(), {"Retry-After": "7"}) if left[method] else None

        vertex.fault = busy
        push(bench, bench.candidate())
        assert waited.count(7.0) == 5
        assert vertex.alias("digits", "champion") == "1"

    def test_what_does_not_pass_ends(self, bench: Bench, vertex: Vertex) -> None:
        vertex.fault = lambda *_: (503, {})
        with pytest.raises(ArtifactError, match="Vertex answered 503 when asked to list its versions"):
            push(bench, bench.candidate())
        assert len(vertex.requests) == vertex_model.TRIES

    def test_a_model_that_vertex_does_not_take(self, bench: Bench, vertex: Vertex) -> None:
        vertex.refuse_upload = "The directory holds no SavedModel."
        with pytest.raises(ArtifactError, match=r"Vertex cannot take the model: The directory holds no SavedModel\."):
            push(bench, bench.candidate())

    def test_an_upload_that_never_ends(self, bench: Bench, vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> None:
        vertex.polls = 10**9
        monkeypatch.setattr(vertex_model, "UPLOAD_SECONDS", 0.2)
        with pytest.raises(ArtifactError, match=r"Vertex has not finished projects/123456/.* Run push again when it has"):
            push(bench, bench.candidate())

    def test_no_account(self, bench: Bench, vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(**_: Any) -> None:
            raise DefaultCredentialsError("Your default credentials were not found")  # type: ignore[no-untyped-call]

        monkeypatch.setattr(google.auth, "default", none)
        with pytest.raises(ArtifactError, match="There is no Google account to tell Vertex with: Your default credentials"):
            push(bench, bench.candidate())

    def test_another_token(self, bench: Bench, vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(google.auth, "default", lambda **_: (Credentials("old"), "p"))
        with pytest.raises(ArtifactError, match=r"Vertex (answered 401|could not be asked)"):
            push(bench, bench.candidate())


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        ([f"push.vertex_model={MODEL}"], "push.vertex_model needs push.registry at a gs:// address, it is ''"),
        (
            ["push.vertex_model=digits", "push.registry=gs://b/r"],
            "push.vertex_model = 'digits': use projects/PROJECT/",
        ),
        ([f"push.vertex_model={MODEL}!", "push.registry=gs://b/r"], "a name of up to 63 of a-z"),
    ],
)
def test_what_cannot_be_is_refused_with_the_config(sets: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, sets)
    assert sentence in str(caught.value)


def test_a_model_outside_a_bucket_is_refused() -> None:
    manifest = Manifest(
        schema_version=1, kind="version", digest="ab" * 32, created_at="", code_digest="", config={}, counts={}, files={},
        inputs={"model": "cd" * 32}, details={"image_size": 8, "channels": 1, "latents": 4},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="Vertex cannot read /tmp/v0001"):
        upload_request(
            Published("v0001", manifest, SCORES, "/tmp/v0001"), parent=PARENT, model="m", serving_image="i", first=True
        )
