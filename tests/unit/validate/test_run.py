"""Validation: exact statistics, and every reason to refuse a dataset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from components.common.artifacts import MANIFEST, read_manifest, write_json
from components.common.errors import ArtifactError, DataRejectedError
from components.dataset.records import NO_LABEL, Record, read_tfrecord, shard_name, write_tfrecord
from components.validate.config import ValidateConfig
from components.validate.run import ValidateSummary, run
from components.validate.statistics.statistics import label_histogram, split_statistics
from components.validate.statistics.tally import RecordRef, Tally, tally_records
from tests.support.datasets.snapshots import Images, digits, write_splits

DIGITS = digits()[0][:120]
TRAIN, HELD_OUT = DIGITS[:100], DIGITS[100:]


def write_dataset(path: Path, train: Images, held_out: Images) -> Path:
    return write_splits(path, {"train": (train, np.arange(len(train)) % 10), "eval": (held_out, np.arange(len(held_out)) % 10)})


def validate(tmp_path: Path, train: Images, held_out: Images, **fields: Any) -> ValidateSummary:
    dataset = write_dataset(tmp_path / "dataset", train, held_out)
    return run(ValidateConfig(**fields), dataset=dataset, out=tmp_path / "out")


def test_digits_are_valid_and_their_statistics_are_exact(tmp_path: Path) -> None:
    summary = validate(tmp_path, TRAIN, HELD_OUT)
    assert (summary.train_images, summary.eval_images) == (100, 20)
    assert (summary.image_size, summary.channels, summary.labels) == (8, 1, 10)
    assert (summary.minimum, summary.maximum) == (0, 255)
    assert summary.mean == pytest.approx([TRAIN.mean()], rel=1e-12)
    assert summary.deviation == pytest.approx([TRAIN.std()], rel=1e-12)
    written = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert written["eval"]["count"] == 20
    assert written["eval"]["shape"] == [8, 8, 1]
    assert written["eval"]["mean"] == pytest.approx([HELD_OUT.mean()], rel=1e-12)
    assert written["train"]["label_histogram"] == {str(label): 10 for label in range(10)}
    manifest = read_manifest(tmp_path / "out", "validation")
    assert manifest.counts == {"train": 100, "eval": 20}
    assert manifest.inputs == {"dataset": read_manifest(tmp_path / "dataset").digest}


@given(arrays(np.uint8, st.tuples(st.integers(1, 7), st.just(3), st.just(2), st.sampled_from([1, 3]))), st.integers(1, 5))
def test_statistics_match_numpy_for_any_chunks(images: Images, chunk: int) -> None:
    records = [Record(image, index % 3 - 1, "id") for index, image in enumerate(images)]
    chunks = [records[start : start + chunk] for start in range(0, len(records), chunk)]
    tallies = [tally_records(part, [RecordRef("id", "file", 0)] * len(part), 2.0) for part in chunks]
    found = split_statistics(sum(tallies, Tally(images.shape[3])), 3, ["a"])
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2)), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(found.deviation, images.std(axis=(0, 1, 2)), rtol=1e-9, atol=1e-9)
    assert (found.minimum, found.maximum) == (images.min(), images.max())
    assert sum(found.label_histogram.values()) == found.count == len(images)


def test_labels_are_counted_by_name() -> None:
    found = label_histogram({1: 2, NO_LABEL: 1, 0: 1, 7: 1}, ["cat", "dog"])
    assert found == {"unlabelled": 1, "cat": 1, "dog": 2, "7": 1}


def test_too_few_images_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(DataRejectedError) as caught:
        validate(tmp_path, DIGITS[:63], DIGITS[63:78])
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "The dataset is too small: 63 train images where 64 are needed, 15 eval images where 16 are needed."
        " Name a larger source, or lower validate.min_train_images and validate.min_eval_images."
    )
    assert not (tmp_path / "out").exists()
    validate(tmp_path, DIGITS[:63], DIGITS[63:78], min_train_images=63, min_eval_images=15)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRejectedError, match="0 eval images where 2 are needed"):
        validate(tmp_path, DIGITS, DIGITS[:0], min_eval_images=2)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_constant_images_are_refused(split: str, tmp_path: Path) -> None:
    flat = np.full_like(DIGITS, 17)
    flat[0, 0, 0, 0] = 18
    train, held_out = (flat, DIGITS[:20]) if split == "train" else (DIGITS, flat[:20])
    with pytest.raises(DataRejectedError, match=f"The {split} images are constant: the standard deviation of .* is 0.0"):
        validate(tmp_path, train, held_out)
    validate(tmp_path, train, held_out, min_deviation=0.0)


def test_one_channel_that_varies_is_enough(tmp_path: Path) -> None:
    colour = np.concatenate([np.zeros_like(DIGITS), DIGITS, np.zeros_like(DIGITS)], axis=-1)
    summary = validate(tmp_path, colour[:100], colour[100:])
    assert summary.channels == 3
    assert summary.deviation[0] == 0.0 < summary.deviation[1]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": 101}, "101 train images claimed and 100 found"),
        ({"train": 99, "eval": 21}, "99 train images claimed and 100 found, 21 eval images claimed and 20 found"),
    ],
)
def test_counts_that_differ_from_the_records_are_refused(counts: dict[str, int], message: str, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", TRAIN, HELD_OUT)
    manifest = json.loads((dataset / MANIFEST).read_text())
    write_json(dataset / MANIFEST, manifest | {"counts": manifest["counts"] | counts})
    with pytest.raises(DataRejectedError, match=message):
        run(ValidateConfig(), dataset=dataset, out=tmp_path / "out")


def test_a_damaged_or_missing_dataset_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", TRAIN, HELD_OUT)
    shard = dataset / shard_name("train", 0, 2)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    message = r"is damaged: train-00000-of-00002\.tfrecord does not match its digest"
    with pytest.raises(ArtifactError, match=message):
        run(ValidateConfig(), dataset=dataset, out=tmp_path / "out")
    write_tfrecord(shard, read_tfrecord(dataset / shard_name("train", 1, 2)))  # valid records, but others
    with pytest.raises(ArtifactError, match=message):
        run(ValidateConfig(), dataset=dataset, out=tmp_path / "out")
    (dataset / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="it is not a finished artifact"):
        run(ValidateConfig(), dataset=dataset, out=tmp_path / "out")


def test_the_command_line_imports_no_tensorflow(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", DIGITS[:40], DIGITS[40:])
    command = [sys.executable, "-X", "importtime", "-m", "components.validate"]
    done = subprocess.run(
        [*command, "--dataset", str(dataset), "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "40 train images where 64 are needed" in done.stderr
    assert not [name for name in ("tensorflow", "apache_beam", "sklearn") if f" {name}\n" in done.stderr]
