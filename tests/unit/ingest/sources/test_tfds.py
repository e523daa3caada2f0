"""TFDS as a source, offline: a small dataset defined here, and (heavy) Fashion-MNIST from its original files."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from components.common.artifacts import read_manifest
from components.common.errors import ConfigError
from components.dataset.records import read_split, read_tfrecord, record_positions, write_tfrecord
from components.ingest.config import IngestConfig
from components.ingest.run import IngestSummary, run
from components.ingest.sources import tfds_reader
from components.ingest.sources.chunks import RawImage, Unread
from components.ingest.sources.readers import open_source, read_chunk
from tests.support.datasets.fashion_mnist import ORIGINALS
from tests.support.datasets.source_items import items_of

KINDS = ("dark", "light")
TAILS = ("", "@1.0.0", ":1.0.0")
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),  # protobuf's, used by TFDS
]


def ingest(out: Path, **fields: Any) -> IngestSummary:
    return run(IngestConfig(**fields), out=out)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 128, (12, 10, 3), np.uint8) + 100 * (seed % 2)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class SmallShapes(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """Images 0 to 39 are in train, one of them broken; images 35 to 49 are in test, so five are in both."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> Any:
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=KINDS)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features | {"extra": tfds.features.Text()}))

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._examples(range(40), broken=3), "test": self._examples(range(35, 50), broken=-1)}

    def _examples(self, seeds: range, broken: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for seed in seeds:
            image = png(seed)[:-40] if seed == broken else png(seed)
            yield seed, {"image": image, "label": seed % 2, "extra": "x"}

    def _generate_examples(self) -> None:  # abstract in the base class; the generators above are used directly
        raise NotImplementedError


class NoImages(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """A dataset without a feature `image`."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> Any:
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": [(0, {"text": "x"})]}

    def _generate_examples(self) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("tfds"))


def test_tfds_eval_split_is_held_out_as_a_whole(data_dir: str, tmp_path: Path) -> None:
    summary = ingest(
        tmp_path / "out", source="tfds:small_shapes", tfds_data_dir=data_dir, tfds_eval_split="test", image_size=8, channels=3
    )
    assert summary.model_dump() == {
        "read": 55, "kept": 49, "duplicate": 5, "quarantined": 1, "train": 34, "eval": 15, "labels": 2,
        "source": "tfds:small_shapes",
    }  # fmt: skip
    train, held_out = read_split(tmp_path / "out", "train"), read_split(tmp_path / "out", "eval")
    assert all("small_shapes-test" in id for id in held_out.ids)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in held_out.images}
    manifest = read_manifest(tmp_path / "out")
    assert manifest.details["label_names"] == list(KINDS)
    assert manifest.details["label_histogram"]["eval"] == Counter(KINDS[seed % 2] for seed in range(35, 50))
    bright = held_out.images.reshape(15, -1).mean(axis=1) > 110
    np.testing.assert_array_equal(bright, held_out.labels == 1)
    quarantined = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert quarantined["reason"] == "truncated"
    assert quarantined["id"].startswith("small_shapes/small_shapes-train.tfrecord-00000-of-00001__")


def test_part_of_a_split_held_out_by_hash(data_dir: str, tmp_path: Path) -> None:
    fields = {"source": "tfds:small_shapes", "tfds_data_dir": data_dir, "tfds_split": "train[:20]+test[50%:]"}
    summary = ingest(tmp_path / "out", **fields, eval_fraction=0.5)
    assert summary.read == 20 + 7  # TFDS rounds the middle of 15 up
    assert summary.train > 0
    assert summary.eval > 0
    ingest(tmp_path / "again", **fields, eval_fraction=0.5)
    assert read_manifest(tmp_path / "again").digest == read_manifest(tmp_path / "out").digest


def test_records_equal_those_read_by_tfds(data_dir: str) -> None:
    fields = {"tfds_data_dir": data_dir, "tfds_split": "train[5:35]", "tfds_eval_split": "test[50%:]"}
    reader = open_source(IngestConfig(source="tfds:small_shapes", **fields))
    ours = [image for chunk in reader.chunks for image in read_chunk(chunk)]
    builder = tfds_reader.find_builder("small_shapes", data_dir)
    decoders = {"image": tfds.decode.SkipDecoding()}
    theirs = []
    for split, forced in (("train[5:35]", "train"), ("test[50%:]", "eval")):
        read = builder.as_dataset(split=split, decoders=decoders, read_config=tfds.ReadConfig(add_tfds_id=True))
        for row in read.as_numpy_iterator():
            theirs.append(RawImage(f"small_shapes/{row['tfds_id'].decode()}", int(row["label"]), forced, row["image"]))
    assert ours == theirs
    assert reader.total == len(ours) == 37


def prepared_copy(data_dir: str, folder: Path) -> tuple[IngestConfig, Path]:
    """Copy the prepared small dataset; return a config for the copy, and its file of training records."""
    open_source(IngestConfig(source="tfds:small_shapes", tfds_data_dir=data_dir))
    shutil.copytree(Path(data_dir) / "small_shapes", folder / "small_shapes")
    (file,) = (folder / "small_shapes").rglob("*train.tfrecord*")
    return IngestConfig(source="tfds:small_shapes", tfds_data_dir=str(folder)), file


def test_version_can_be_named_with_at_or_colon(data_dir: str) -> None:
    readers = [open_source(IngestConfig(source=f"tfds:small_shapes{tail}", tfds_data_dir=data_dir)) for tail in TAILS]
    assert readers[0].total == 40
    assert readers == readers[:1] * 3


@pytest.mark.parametrize(
    ("split", "count"), [("train[:80%]", 32), ("train+test", 55), ("train[10:13]+test[-2:]", 5), ("all", 55)]
)
def test_splits_are_tfds_expressions(data_dir: str, split: str, count: int) -> None:
    reader = open_source(IngestConfig(source="tfds:small_shapes", tfds_data_dir=data_dir, tfds_split=split))
    assert len(items_of(reader)) == reader.total == count


def test_damaged_records_are_quarantined_and_the_others_are_read(data_dir: str, tmp_path: Path) -> None:
    config, file = prepared_copy(data_dir, tmp_path)
    before = items_of(open_source(config))
    reader = open_source(config)
    raw = bytearray(file.read_bytes())
    for number in (4, 5, 39):
        start, length = record_positions(file)[number].tolist()
        raw[start + length // 2] ^= 1
    file.write_bytes(raw)
    after = items_of(reader)
    assert [item.id for item in after] == [item.id for item in before]
    damaged = [index for index, item in enumerate(after) if item != before[index]]
    assert damaged == [4, 5, 39]
    assert {item.reason for item in after if isinstance(item, Unread)} == {"damaged record"}
    file.unlink()
    assert [item[1:3] for item in items_of(reader)] == [("damaged record", "No such file or directory")] * 40


def test_records_without_an_image_are_quarantined(data_dir: str, tmp_path: Path) -> None:
    config, file = prepared_copy(data_dir, tmp_path)
    good = next(read_tfrecord(file))
    write_tfrecord(file, [b"", good, b"\xff\xff no message"] + [good] * 37)
    found = {index: item.reason for index, item in enumerate(items_of(open_source(config))) if isinstance(item, Unread)}
    assert found == {0: "damaged record", 2: "damaged record"}


def test_truncated_and_missing_prepared_files(data_dir: str, tmp_path: Path) -> None:
    config, file = prepared_copy(data_dir, tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"The prepared TFDS dataset cannot be read: .* is damaged at byte \d+\. Remove "):
        open_source(config)
    file.unlink()
    with pytest.raises(ConfigError, match=r"The prepared TFDS dataset cannot be read: Cannot read .*: No such file"):
        open_source(config)


def test_array_records_are_read_and_other_formats_are_refused(data_dir: str, tmp_path: Path) -> None:
    builder = SmallShapes(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    config = IngestConfig(source="tfds:small_shapes", tfds_data_dir=str(tmp_path), tfds_split="train[5:35]+test")
    as_tfrecord = config.model_copy(update={"tfds_data_dir": data_dir})
    ours, same = (items_of(open_source(one)) for one in (config, as_tfrecord))
    assert [item[1:] for item in ours] == [item[1:] for item in same]
    assert ours[0].id == "small_shapes/small_shapes-train.array_record-00000-of-00001__5"
    files = [str(file) for file in tmp_path.rglob("*array_record-0*")]
    for file in files:
        Path(file).write_bytes(b"no records")
    with pytest.raises(ConfigError, match=r"The prepared TFDS dataset cannot be read: .*has 0 records, TFDS wrote at least 35"):
        open_source(config)
    for info in tmp_path.rglob("dataset_info.json"):
        info.write_text(info.read_text().replace("array_record", "riegeli"))
    with pytest.raises(ConfigError, match=r"prepared as riegeli files in .*; tfrecord and array_record can be read\. Name an"):
        open_source(config)


def test_workers_do_not_import_tensorflow(data_dir: str) -> None:
    reader = open_source(IngestConfig(source="tfds:small_shapes", tfds_data_dir=data_dir))
    program = (
        "import ast, sys\n"
        "from components.ingest.sources.readers import read_chunk\n"
        "chunks = ast.literal_eval(sys.stdin.read())\n"
        "count = sum(1 for chunk in chunks for item in read_chunk(chunk))\n"
        "print(count, [name for name in ('tensorflow', 'tensorflow_datasets', 'apache_beam') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=repr(reader.chunks), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "40 []"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "tfds:no_such_dataset"}, r'"tfds:no_such_dataset": TFDS has no dataset of this name'),
        ({"source": "tfds:fashion_mnist/no_config"}, r"TFDS says: BuilderConfig no_config not found"),
        ({"source": "tfds:fashion_mnist:9.9.9"}, r"cannot be loaded at version 9\.9\.9, only: 3\.0\.1"),
        ({"source": "tfds:not a name"}, r"TFDS says: Parsing builder name string not a name failed"),
        ({"source": "tfds:small_shapes", "tfds_split": "valid"}, r'has no split "valid".* Choose from test, train'),
        ({"source": "tfds:small_shapes", "tfds_eval_split": "valid"}, r'has no split "valid"'),
        ({"source": "tfds:small_shapes", "tfds_eval_split": "train"}, r'tfds_split and tfds_eval_split are both "train"'),
        ({"source": "tfds:no_images"}, r"has no feature `image` with 8 or 16 bits; it has text"),
    ],
)
def test_unknown_names_and_splits_are_config_errors(
    fields: dict[str, Any], message: str, data_dir: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ingest(tmp_path / "out", tfds_data_dir=data_dir, **fields)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_manual_dir_and_one_with_wrong_files(tmp_path: Path) -> None:
    fields = {"source": "tfds:fashion_mnist", "tfds_data_dir": str(tmp_path / "data")}
    with pytest.raises(ConfigError, match=f'tfds_manual_dir = "{tmp_path}/nowhere": there is no such folder'):
        ingest(tmp_path / "out", tfds_manual_dir=str(tmp_path / "nowhere"), **fields)
    (tmp_path / "manual").mkdir()
    for original in ORIGINALS:
        (tmp_path / "manual" / f"{original.name}.gz").write_bytes(b"not the original")
    with pytest.raises(ConfigError, match=r"TFDS rejects .*ubyte\.gz for fashion_mnist: its SHA-256 differs"):
        ingest(tmp_path / "out", tfds_manual_dir=str(tmp_path / "manual"), **fields)


def test_unreachable_download_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_reader, "_resolves", lambda host: False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    (tmp_path / "manual").mkdir()
    fields = {"source": "tfds:fashion_mnist", "tfds_data_dir": str(tmp_path / "data")}
    with pytest.raises(ConfigError, match=r"TFDS needs t10k-images-idx3-ubyte\.gz, .*, but .* cannot be reached\. Put"):
        ingest(tmp_path / "out", **fields)
    with pytest.raises(ConfigError, match=rf"cannot be reached and {tmp_path}/manual does not contain"):
        ingest(tmp_path / "out", tfds_manual_dir=str(tmp_path / "manual"), **fields)


def test_data_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"TFDS cannot prepare small_shapes: .*Not a directory"):
        ingest(tmp_path / "out", source="tfds:small_shapes", tfds_data_dir=str(tmp_path / "file" / "data"))


@pytest.mark.heavy
def test_fashion_mnist_through_tfds(fashion_mnist: Path, tmp_path: Path) -> None:
    import gzip

    summary = ingest(
        tmp_path / "out", source="tfds:fashion_mnist", tfds_manual_dir=str(fashion_mnist),
        tfds_data_dir=str(tmp_path / "data"), tfds_eval_split="test", image_size=28,
    )  # fmt: skip
    reader = open_source(IngestConfig(source="tfds:fashion_mnist", tfds_data_dir=str(tmp_path / "data"), tfds_split="test"))
    read = tfds_reader.find_builder("fashion_mnist", str(tmp_path / "data")).as_dataset(
        split="test", decoders={"image": tfds.decode.SkipDecoding()}, read_config=tfds.ReadConfig(add_tfds_id=True)
    )
    for item, row in zip(items_of(reader), read.as_numpy_iterator(), strict=True):
        assert item == RawImage(f"fashion_mnist/{row['tfds_id'].decode()}", int(row["label"]), "", row["image"])
    raw, labels = {}, {}
    for split, name in (("train", "train"), ("eval", "t10k")):
        images = gzip.decompress((fashion_mnist / f"{name}-images-idx3-ubyte.gz").read_bytes())[16:]
        raw[split] = np.frombuffer(images, np.uint8).reshape(-1, 28, 28, 1)
        labels[split] = np.frombuffer(
            gzip.decompress((fashion_mnist / f"{name}-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8
        )
    exact = {split: {image.tobytes() for image in images} for split, images in raw.items()}
    assert summary.read == 70_000
    assert summary.quarantined == 0
    assert summary.eval == len(exact["eval"])
    assert summary.train == len(exact["train"] - exact["eval"])
    assert summary.duplicate == 70_000 - summary.kept
    manifest = read_manifest(tmp_path / "out")
    assert sum(manifest.details["label_histogram"]["train"].values()) == summary.train
    if summary.duplicate == 0:
        assert set(manifest.details["label_histogram"]["train"].values()) == {6000}
        assert set(manifest.details["label_histogram"]["eval"].values()) == {1000}
    label_of = {image.tobytes(): label for split in raw for image, label in zip(raw[split], labels[split], strict=True)}
    for split in ("train", "eval"):
        kept = read_split(tmp_path / "out", split)
        assert {image.tobytes() for image in kept.images} == exact[split] - (exact["eval"] if split == "train" else set())
        assert all(label_of[image.tobytes()] == label for image, label in zip(kept.images, kept.labels, strict=True))
