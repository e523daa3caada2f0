"""Distances in the features of an extractor: they detect what no histogram shows, and raise no alarm for one source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.common.artifacts import MANIFEST, new_artifact, write_json
from components.common.errors import ArtifactError
from components.common.store import Folder
from components.evaluate.features.extractor import SETTINGS_FILE, Extractor
from components.evaluate.features.extractor_training import random_extractor
from components.validate.config import ValidateConfig
from components.validate.drift.features import discrepancy, feature_distance, newest_extractor, sample_images
from components.validate.findings import SAMPLE_FILE
from components.validate.run import run
from tests.support.datasets.snapshots import digits, write_snapshot


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    """Random convolutions, whitened for the digits."""
    return random_extractor(digits()[0])


@pytest.fixture
def work_dir(tmp_path: Path, extractor: Extractor) -> Path:
    """A work directory with the extractor of an evaluation."""
    with new_artifact(tmp_path / "work" / "extractors" / "abc", "extractor", config=ValidateConfig()) as writer:
        extractor.save(writer.path)
        writer.details = extractor.settings.model_dump()
    return tmp_path / "work"


def test_the_discrepancy_matches_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 4)), rng.standard_normal((20, 4)) + 1

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x @ y.T / 4 + 1) ** 3).mean())

    assert discrepancy(a, b, 0.01)[0] == pytest.approx(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b), rel=1e-12)
    assert discrepancy(a, a, 0.01)[0] == pytest.approx(0, abs=1e-12)
    assert discrepancy(np.ones((5, 2)), np.ones((5, 2)), 0.01) == (0, 0)


def test_the_noise_is_exceeded_with_the_given_probability() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((60, 6)), rng.standard_normal((90, 6))) for _ in range(400)]
    above = sum(value > noise for value, noise in (discrepancy(a, b, 0.05) for a, b in pairs))
    assert 8 <= above <= 34  # 20 expected


def test_random_samples_of_digits_raise_no_alarm_and_turned_ones_do(extractor: Extractor) -> None:
    images = digits()[0]
    features, turned = (
        extractor.features(part).astype(np.float64) for part in (images, np.ascontiguousarray(np.rot90(images, axes=(1, 2))))
    )
    rng, chance = np.random.default_rng(0), 1e-3 / 6
    alarms = 0
    for _ in range(100):
        order = rng.permutation(len(images))
        value, noise = discrepancy(features[order[:300]], features[order[300:600]], chance)
        alarms += value > noise
    assert alarms <= 1
    value, noise = discrepancy(features[:512], turned[512:1024], chance)
    assert value > 2 * noise


def test_turned_digits_are_a_warning_although_no_histogram_changes(tmp_path: Path, work_dir: Path) -> None:
    images, labels = digits()
    config = ValidateConfig(history=str(tmp_path / "history"))
    write_snapshot(tmp_path / "before", images, labels)
    write_snapshot(tmp_path / "turned", np.ascontiguousarray(np.rot90(images, axes=(1, 2))), labels)
    run(config, dataset=tmp_path / "before", out=tmp_path / "out-before", work_dir=work_dir)
    summary = run(config, dataset=tmp_path / "turned", out=tmp_path / "out", work_dir=work_dir)
    assert [(anomaly["feature"], anomaly["severity"]) for anomaly in summary.anomalies] == [("features", "warning")]
    assert "512 images differ from 512 before in the features of the random extractor abc" in summary.anomalies[0]["text"]
    measures = json.loads((tmp_path / "out" / "comparison.json").read_text())["measures"]
    assert {measure["feature"]: measure["value"] for measure in measures}["channel_0"] == 0
    assert measures[-1]["most"] is None


def test_damaged_extractors_and_those_of_other_images_are_ignored(work_dir: Path, tmp_path: Path) -> None:
    work, folder = Folder(work_dir), work_dir / "extractors" / "abc"
    shutil.copytree(folder, folder.with_name("older"))
    older = folder.with_name("older") / MANIFEST
    write_json(older, {**json.loads(older.read_text()), "created_at": "2020-01-01T00:00:00.000+00:00"})
    assert newest_extractor(work, 8, 1) == "extractors/abc"
    assert newest_extractor(work, 16, 1) == ""
    assert newest_extractor(Folder(work_dir / "elsewhere"), 8, 1) == ""
    (folder / SETTINGS_FILE).write_text("{")
    write_snapshot(tmp_path / "digits", *digits())
    run(ValidateConfig(), dataset=tmp_path / "digits", out=tmp_path / "out")
    assert feature_distance(work, tmp_path / "out", tmp_path / "out", 8, 1, 0.01) is None
    (folder / MANIFEST).write_text("{")
    assert newest_extractor(work, 8, 1) == "extractors/older"
    assert feature_distance(work, tmp_path / "out", tmp_path / "out", 8, 1, 0.01) is not None


def test_a_sample_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"The sample in .* cannot be read"):
        sample_images(tmp_path, 8, 1)
    (tmp_path / SAMPLE_FILE).write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"The sample in .* cannot be read"):
        sample_images(tmp_path, 8, 1)
