"""The model as others take it: TensorFlow Serving's requests in docs/registry.md, and Vertex AI's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.cloud import aiplatform_v1  # noqa: TID251 - what Vertex takes

from components.artifacts import Manifest
from components.errors import ConfigError
from components.train.config import TrainConfig
from components.train.export import Generator
from components.train.networks import ImageShape
from pipeline import vertex_model
from tests.data.push_bench import SCORES

DOCS = Path(__file__).parents[2] / "docs" / "registry.md"
MANIFEST = Manifest(
    schema_version=1, kind="version", digest="ab" * 32, created_at="", code_digest="", config={}, counts={}, files={},
    inputs={"model": "cd" * 32}, details={"image_size": 8, "channels": 1, "latents": 4},
)  # fmt: skip
PLACE = {"parent": "projects/p/locations/europe-west4", "artifact_uri": "gs://bucket/v0001", "serving_image": "image"}


def test_the_requests_in_the_docs_are_what_the_signatures_take(tmp_path: Path) -> None:
    made = Generator(ImageShape(8, 1, 3), TrainConfig(conditional=True, latents=4, generator_channels=2), [5, 0, 5])
    made.save(tmp_path / "model")
    model = tf.saved_model.load(str(tmp_path / "model"))
    bodies = [json.loads(body) for body in re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)]
    assert [body["signature_name"] for body in bodies] == ["generate", "generate_labels"]
    for body, count in zip(bodies, (4, 3), strict=True):
        assert set(body) == {"signature_name", "inputs"}
        signature = model.signatures[body["signature_name"]]
        specs: dict[str, Any] = signature.structured_input_signature[1]
        assert set(specs) == set(body["inputs"])
        given = {name: tf.constant(value, specs[name].dtype) for name, value in body["inputs"].items()}
        assert all(specs[name].shape.is_compatible_with(value.shape) for name, value in given.items())
        answer = signature(**given)
        assert list(answer) == ["images"], "one output: Serving calls it `outputs`"
        images = answer["images"].numpy()
        assert images.shape == (count, 8, 8, 1)
        assert images.dtype == np.uint8


def upload(**changes: Any) -> dict[str, Any]:
    return vertex_model.upload_request(
        **{**PLACE, "model": "digits", "version": "v0001", "manifest": MANIFEST, "first": True, **changes}
    )


class TestVertex:
    def test_a_first_version_is_a_model(self) -> None:
        request = aiplatform_v1.UploadModelRequest(upload())
        assert (request.parent, request.model_id, request.parent_model) == (PLACE["parent"], "digits", "")
        assert list(request.model.version_aliases) == ["default", "champion", "v0001"]
        assert request.model.container_spec.image_uri == "image"
        assert request.model.labels["image-size"] == "8"
        for key, value in request.model.labels.items():
            assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key)
            assert re.fullmatch(r"[a-z0-9_-]{0,63}", value)

    def test_a_later_one_is_a_version_of_it(self) -> None:
        request = aiplatform_v1.UploadModelRequest(upload(first=False))
        assert request.parent_model == f"{PLACE['parent']}/models/digits"
        assert request.model_id == ""

    def test_the_scores_are_its_evaluation(self) -> None:
        body = vertex_model.evaluation_request(model_version=f"{PLACE['parent']}/models/digits@1", scores=SCORES)
        request = aiplatform_v1.ImportModelEvaluationRequest(body)
        metrics = dict(request.model_evaluation.metrics)
        assert metrics["kid"] == SCORES["kid"]
        assert set(metrics) == set(vertex_model.METRICS)
        assert request.model_evaluation.metadata["provenance"]["samples"] == 600

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"parent": "p"}, "'p' is no place for a model"),
            ({"model": "Digits!"}, "'Digits!' is no name of a model on Vertex"),
            ({"version": "1"}, "'1' is no alias of a version on Vertex"),
            ({"artifact_uri": "/tmp/v0001"}, "Vertex cannot read /tmp/v0001"),
        ],
    )
    def test_what_vertex_refuses_gets_a_sentence(self, changes: dict[str, str], sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            upload(**changes)

    def test_an_evaluation_needs_a_version(self) -> None:
        with pytest.raises(ConfigError, match="is no version of a model"):
            vertex_model.evaluation_request(model_version="projects/p/locations/l/models/m", scores=SCORES)
