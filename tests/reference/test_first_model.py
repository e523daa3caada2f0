"""The first model of a registry: no useless generator is published, nor beside a champion, and an honest one is.

The useless generators are SavedModels that go through the steps evaluate, gate and push, for three data sets: digits without
labels, Fashion-MNIST, and digits in colours. The honest one returns real images that are in neither split.
"""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from components.dataset.records import ImageSet
from components.evaluate import run as evaluate
from components.evaluate import useless
from components.evaluate.config import EvaluateConfig
from components.gate import run as gate
from components.gate.config import GateConfig
from components.gate.run import GateSummary
from components.push import run as push
from components.push.config import PushConfig
from tests.support.datasets.fashion_mnist import PackageMissingError, package_files
from tests.support.datasets.tiny_artifacts import digits, sample_here, write_images, write_model, write_validation

pytestmark = pytest.mark.heavy
CONFIG = EvaluateConfig(samples=600, kid_subsets=10, kid_subset_size=200)
SHARES = (0.5, 0.2)  # of the images for training and held out; the others are those of the honest generator

Images = npt.NDArray[np.uint8]


def fashion() -> ImageSet:
    """6,000 images of Fashion-MNIST, 28×28."""
    try:
        files = package_files()
    except PackageMissingError as error:
        pytest.fail(str(error))
    images, labels = (
        np.frombuffer(gzip.decompress(files[f"train-{name}-ubyte.gz"].read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return ImageSet(images.reshape(-1, 28, 28, 1)[:6000], labels[:6000].astype(np.int64), tuple(map(str, range(6000))))


def coloured() -> ImageSet:
    """The digits at 16×16, each in a random colour on white."""
    images, labels, ids = digits()
    grey = images.repeat(2, axis=1).repeat(2, axis=2) / 255
    colours = np.random.default_rng(0).integers(0, 160, (len(grey), 1, 1, 3))
    return ImageSet(np.round(255 - grey * (255 - colours)).astype(np.uint8), labels, ids)


SETS = {"digits": (digits, False), "Fashion-MNIST": (fashion, True), "coloured digits": (coloured, True)}


class Bench:
    """A dataset, and a registry in which its models are published."""

    def __init__(self, folder: Path, name: str) -> None:
        make, labels = SETS[name]
        whole, self.folder = make(), folder
        ends = np.round(np.cumsum((0, *SHARES, 1 - sum(SHARES))) * len(whole.images)).astype(int)
        self.train, held_out, self.rest = (ImageSet(*(field[a:b] for field in whole)) for a, b in itertools.pairwise(ends))
        self.dataset = write_images(folder / "dataset", {"train": self.train, "eval": held_out}, labels=labels)
        self.validation = write_validation(folder / "validation", self.dataset)

    def judge(self, name: str, images: Images) -> tuple[GateSummary, str]:
        """Let a generator of these images through the steps; return the verdict and what push decided."""
        model, out = write_model(self.folder / name / "model", images), self.folder / name / "evaluation"
        evaluate.run(CONFIG, dataset=self.dataset, model=model, work_dir=self.folder / "work", out=out)
        inputs = {"model": model, "evaluation": out, "validation": self.validation}
        registry, verdict = str(self.folder / "registry"), self.folder / name / "verdict"
        summary = gate.run(GateConfig(), registry=registry, out=verdict, **inputs)
        pushed = push.run(PushConfig(), registry=registry, verdict=verdict, out=self.folder / name / "push", **inputs)
        return summary, pushed.decision


@pytest.mark.parametrize("name", SETS)
def test_no_useless_generator_is_published(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "sample_in_fresh_process", sample_here)
    bench = Bench(tmp_path, name)
    bank = {
        kind: useless.make(kind, bench.train.images, 300, np.random.default_rng(seed)) for seed, kind in enumerate(useless.SETS)
    }
    for kind, images in bank.items():
        verdict, decision = bench.judge(f"first {kind}", images)
        print(name, kind, verdict.reason)
        assert (verdict.decision, decision) == ("not blessed", "kept"), kind
    verdict, decision = bench.judge("honest", bench.rest.images)
    assert (verdict.decision, decision) == ("blessed", "published"), verdict.reason
    for kind, images in bank.items():
        verdict, decision = bench.judge(f"second {kind}", images[::-1])
        assert (verdict.decision, decision) == ("not blessed", "kept"), kind
