"""A registry for the tests of push, and candidates with made-up scores."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.common.artifacts import new_artifact, read_manifest, write_bytes, write_json, write_text
from components.common.store import store_at
from components.evaluate.config import EvaluateConfig
from components.evaluate.scores import Reference
from components.gate import run as gate
from components.gate.config import GateConfig
from components.push import run as push
from components.push.config import PushConfig
from components.push.run import PushSummary
from components.registry.registry import Champion, Registry, RegistryLocation
from components.train.config import TrainConfig
from tests.support.datasets.tiny_artifacts import LATENTS, write_dataset, write_validation

SCORES = {
    "fid": 2.0, "kid": 0.060, "kid_std": 0.006, "precision": 0.8, "recall": 0.7, "density": 0.9, "coverage": 0.6,
    "memorization": 0.01, "modes": {"covered": 10, "of": 10, "shares": {}},
    "provenance": {
        "extractor": {"kind": "trained", "digest": "ab" * 32, "accuracy": 0.98, "told_apart": 0.93, "features": 64},
        "resize": "none: native 8×8",
        "real": {"split": "train", "count": 900, "held_out": 300, "dataset": "cd" * 32},
        "samples": 600, "seed": 0, "neighbours_k": 5, "kid_subsets": 10, "kid_subset_size": 200, "weights": "ema",
        "code": "ef" * 32, "tensorflow": "2.20.0",
    },
}  # fmt: skip


REAL_IMAGES, SAMPLES, WIDTH = 200, 150, 8


def features(count: int, shift: float, seed: int) -> npt.NDArray[np.float32]:
    """Return made-up features; the real ones have shift 0."""
    return (np.random.default_rng(seed).standard_normal((count, WIDTH)) + shift).astype(np.float32)


def sample_features(kid: float) -> npt.NDArray[np.float32]:
    """Return features of a model with this KID: the larger it is, the further they are from the real ones."""
    return features(SAMPLES, 10.0 * abs(kid), 3)


def rescored(_: Path, model: Path) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """Stand in for scoring a champion again: return its recorded scores, and features that fit them."""
    scores = json.loads((model / "scores.json").read_bytes())
    return scores, sample_features(scores["kid"])


def write_shared(root: Path) -> Path:
    """Write what candidates share: dataset, validation, and a model that cannot be loaded."""
    write_validation(root / "validation", write_dataset(root / "dataset"))
    with new_artifact(root / "model", "model", config=TrainConfig(latents=LATENTS)) as writer:
        write_text(writer.path / "saved_model" / "saved_model.pb", "a graph")
        write_text(writer.path / "saved_model" / "variables" / "variables.index", "weights")
        writer.details = {"image_size": 8, "channels": 1, "latents": LATENTS}
    return root


class Bench:
    """A registry, and candidates with made-up scores."""

    def __init__(self, root: Path, shared: Path, registry: str = "") -> None:
        self.root, self.shared, self.registry = root, shared, registry or str(root / "registry")
        self.store = store_at(self.registry)
        self.numbers = itertools.count()

    def candidate(self, **scores: Any) -> dict[str, Path]:
        """Return the three inputs of push for a new model with these scores."""
        number = next(self.numbers)
        model = self.root / f"model-{number}"
        with new_artifact(model, "model", config=_train_config(self.shared / "model")) as writer:
            shutil.copytree(self.shared / "model" / "saved_model", writer.path / "saved_model")
            write_bytes(writer.path / "number", bytes([number]))  # makes the digests differ
            writer.details = read_manifest(self.shared / "model").details
        return self.inputs(model, **scores)

    def inputs(self, model: Path, **scores: Any) -> dict[str, Path]:
        """Return the three inputs of push for a model with these scores."""
        return {"model": model, "evaluation": self.evaluation(model, **scores), "validation": self.shared / "validation"}

    def evaluation(self, model: Path, **scores: Any) -> Path:
        path = self.root / f"evaluation-{next(self.numbers)}"
        dataset = self.shared / "dataset"
        with new_artifact(path, "evaluation", config=EvaluateConfig(), inputs={"dataset": dataset, "model": model}) as w:
            write_json(w.path / "scores.json", SCORES | scores)
            write_bytes(w.path / "samples.png", b"a grid")
            Reference(features(REAL_IMAGES, 0.0, 1), features(50, 0.0, 2), REAL_IMAGES).save(w.path)
            stream = io.BytesIO()
            np.save(stream, sample_features((SCORES | scores)["kid"]), allow_pickle=False)
            write_bytes(w.path / "sample_features.npy", stream.getvalue())
            w.counts = {"real": REAL_IMAGES}
            data = read_manifest(dataset)
            counts = {"counts": data.counts, "digest": data.digest, "source": "digits"}
            w.details = {"dataset": {**counts, "label_names": data.details["label_names"]}}
        return path

    def push(
        self, inputs: dict[str, Path], out: Path | None = None, registry: RegistryLocation | None = None, **config: float
    ) -> PushSummary:
        """Judge a model, and carry out the verdict; `config` is the section [gate]."""
        return self.carry_out(inputs, self.judge(inputs, registry, **config), out, registry)

    def carry_out(
        self,
        inputs: dict[str, Path],
        verdict: Path,
        out: Path | None = None,
        registry: RegistryLocation | None = None,
        config: PushConfig = PushConfig(),  # noqa: B008 - it is frozen
    ) -> PushSummary:
        """Publish a model, or not, as a verdict says."""
        return push.run(config, registry=registry or self.registry, **inputs, verdict=verdict, out=out or self.root / "push")

    def judge(self, inputs: dict[str, Path], registry: RegistryLocation | None = None, **config: float) -> Path:
        """Return the verdict on a model."""
        out = self.root / f"verdict-{next(self.numbers)}"
        gate.run(GateConfig(**config), registry=registry or self.registry, **inputs, out=out)
        return out

    def champion(self) -> Champion | None:
        """Return the version in service, after checking every file."""
        registry = Registry(self.registry)
        champion = registry.champion()
        if champion:
            with registry.open_version(champion.version):
                pass
        return champion

    def serves(self) -> str:
        """Return the name of the version in service, after checking every file; empty if there is none."""
        champion = self.champion()
        return champion.version if champion else ""

    def files(self) -> dict[str, bytes]:
        """Return the content of every file in the registry."""
        return {name: self.store.read(name) for name in self.store.files()}

    def versions(self) -> list[str]:
        """Return the names of the versions of which there are files."""
        return sorted({name.split("/")[1] for name in self.store.files("versions")})

    def edit(self, name: str, **changes: Any) -> None:
        """Change values of a JSON file."""
        content = json.loads(self.store.read(name)) | changes
        self.store.write(name, [json.dumps(content).encode()])


def _train_config(artifact: Path) -> TrainConfig:
    return TrainConfig.model_validate(read_manifest(artifact).config)
