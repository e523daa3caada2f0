"""A split on the disk equals the split in memory, and evaluate's memory does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.common.artifacts import new_artifact
from components.common.errors import ArtifactError
from components.dataset.records import Record, encode_example, read_split, shard_name, write_tfrecord
from components.dataset.stored_images import StoredImages, open_split
from components.evaluate.features.extractor_training import random_extractor
from components.ingest.config import IngestConfig
from tests.support.datasets.tiny_artifacts import write_dataset, write_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("stored") / "dataset")


@pytest.mark.parametrize("split", ["train", "eval"])
def test_slices_equal_those_of_the_array_in_memory(dataset: Path, split: str) -> None:
    whole, stored = read_split(dataset, split), open_split(dataset, split)
    assert stored.images.shape == whole.images.shape
    assert len(stored.images) == len(whole.images)
    np.testing.assert_array_equal(stored.labels, whole.labels)
    for wanted in (slice(None), slice(5, 17), slice(290, 10**6), slice(0, 0)):
        np.testing.assert_array_equal(stored.images[wanted], whole.images[wanted])
    for rows in ([], [7], [9, 2, 2, 0], [[3, 1], [1, 250]]):
        numbers = np.array(rows, np.int64)
        np.testing.assert_array_equal(stored.images[numbers], whole.images[numbers])
    np.testing.assert_array_equal(
        random_extractor(whole.images).features(whole.images), random_extractor(stored.images).features(stored.images)
    )


def test_a_damaged_record_is_an_error(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in dataset.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (shard,) = copy.glob("train-*")
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    for opening in (StoredImages, open_split):
        with pytest.raises(ArtifactError, match=r"copy is damaged: train-00000-of-00001\.tfrecord does not match its digest"):
            opening(copy, "train")


PEAK = """
import sys
from pathlib import Path
from components.evaluate import run as evaluate
from components.evaluate.config import EvaluateConfig
root = Path(sys.argv[1])
config = EvaluateConfig(samples=100, real_images=100, kid_subset_size=50, kid_subsets=5)
evaluate.run(config, dataset=root / "dataset", model=root / "model", work_dir=root / "work", out=root / "out")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)  # ru_maxrss would begin with the peak of the process that started this one
"""


@pytest.mark.heavy
def test_ten_times_the_images_need_about_the_same_memory(tmp_path: Path) -> None:
    peaks = {}
    for count in (2_000, 20_000):
        root = tmp_path / str(count)
        generator = np.random.default_rng(0)
        with new_artifact(root / "dataset", "dataset", config=IngestConfig(image_size=64, channels=3)) as writer:
            for split, number in (("train", count), ("eval", 50)):
                images = (generator.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(number))
                records = (encode_example(Record(image, -1, str(at))) for at, image in enumerate(images))
                write_tfrecord(writer.path / shard_name(split, 0, 1), records)
                writer.counts[split] = number
            writer.details = {"image_size": 64, "channels": 3, "label_names": []}
        write_model(root / "model", generator.integers(0, 256, (50, 64, 64, 3), np.uint8))
        done = subprocess.run([sys.executable, "-c", PEAK, root], capture_output=True, text=True, cwd=ROOT, check=True)
        peaks[count] = int(done.stdout.splitlines()[-1])
    print(json.dumps(peaks))
    assert peaks[20_000] - peaks[2_000] < 60  # MiB; the images alone are 211 more
