"""The model as others take it: TensorFlow Serving's requests in docs/registry.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.saving.export import Generator

DOCS = Path(__file__).parents[3] / "docs" / "registry.md"


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
