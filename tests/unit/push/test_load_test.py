"""The load test of a SavedModel, and the requests of docs/registry.md for TensorFlow Serving."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.common.errors import ArtifactError
from components.push import load_test, publish
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.saving.export import Generator
from tests.support.datasets.tiny_artifacts import LATENTS, part, save_generator, write_model
from tests.support.push_bench import Bench

DOCS = Path(__file__).parents[3] / "docs" / "registry.md"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("float", "generate returns float32 [4, 8, 8, 1] instead of uint8 [4, 8, 8, 1]."),
        ("size", "generate returns uint8 [4, 8, 7, 1] instead of uint8 [4, 8, 8, 1]."),
        ("random", "generate returns different images for the same seed."),
        ("constant", "generate returns the same images for different seeds."),
        ("latents", "It has no signature generate_from_latents."),
        ("dark", "generate returns values from 0 to 1; images have values of 0 to 255."),
        ("one", "generate returns uint8 [2, 8, 8, 1] instead of uint8 [1, 8, 8, 1]."),
        ("", ""),
    ],
)
def test_each_fault_is_named(tmp_path: Path, fault: str, sentence: str) -> None:
    save_generator(tmp_path / "model", part("rest").images, fault=fault)
    assert load_test.first_fault(tf.saved_model.load(str(tmp_path / "model")), 8, 1, LATENTS) == sentence


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A generator as train exports it, with three labels of which the second has no images."""
    return Generator(ImageShape(8, 1, 3), TrainConfig(conditional=True, latents=4, generator_channels=2), [5, 0, 5])


@pytest.fixture(scope="module")
def conditional(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("conditional") / "model"
    generator.save(folder)
    return tf.saved_model.load(str(folder))


def test_a_conditional_model_is_tested_with_labels_it_knows(conditional: Any) -> None:
    """Without labels its signatures could not be called."""
    assert load_test.takes_labels(conditional)
    assert load_test.known_labels(conditional) == [0, 2]
    assert load_test.first_fault(conditional, 8, 1, 4) == ""


def test_a_conditional_model_must_have_generate_labels(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(generator.functions, "generate_labels")
    generator.save(tmp_path / "without")
    without = tf.saved_model.load(str(tmp_path / "without"))
    assert load_test.first_fault(without, 8, 1, 4) == "It has no signature generate_labels."


def test_a_model_that_fails_in_the_new_process_is_not_published(real_bench: Bench) -> None:
    model = write_model(real_bench.root / "broken", part("rest").images, fault="random")
    with pytest.raises(ArtifactError) as caught:
        real_bench.push(real_bench.inputs(model))
    assert str(caught.value) == (
        "The model failed the load test and was not published: "
        "generate returns different images for the same seed. Run train again."
    )
    assert real_bench.files() == {}


def test_our_code_cannot_be_imported_in_it(tmp_path: Path) -> None:
    """Even if the project is installed: a stand-in for TensorFlow tries to import it."""
    (tmp_path / "tensorflow.py").write_text("import components")
    (tmp_path / "load_test.py").write_text(publish.LOAD_TEST.read_text())
    result = subprocess.run([sys.executable, str(tmp_path / "load_test.py")], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "import of components halted" in result.stderr


def test_the_requests_in_the_docs_are_what_the_signatures_take(conditional: Any) -> None:
    bodies = [json.loads(body) for body in re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)]
    assert [body["signature_name"] for body in bodies] == ["generate", "generate_labels"]
    for body, count in zip(bodies, (4, 3), strict=True):
        assert set(body) == {"signature_name", "inputs"}
        signature = conditional.signatures[body["signature_name"]]
        specs: dict[str, Any] = signature.structured_input_signature[1]
        assert set(specs) == set(body["inputs"])
        inputs = {name: tf.constant(value, specs[name].dtype) for name, value in body["inputs"].items()}
        assert all(specs[name].shape.is_compatible_with(value.shape) for name, value in inputs.items())
        outputs = signature(**inputs)
        assert list(outputs) == ["images"], "with one output, Serving names it `outputs`"
        images = outputs["images"].numpy()
        assert images.shape == (count, 8, 8, 1)
        assert images.dtype == np.uint8
