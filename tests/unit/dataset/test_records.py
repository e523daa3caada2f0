"""TFRecords: TensorFlow reads the files of this program, and this program reads those of TensorFlow."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.artifacts import new_artifact
from components.common.errors import ArtifactError
from components.dataset.records import (
    NO_LABEL,
    Record,
    decode_example,
    encode_example,
    read_split,
    read_tfrecord,
    shard_name,
    write_tfrecord,
)
from components.ingest.config import IngestConfig


def record(seed: int, size: int = 4, channels: int = 3, label: int = 7) -> Record:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, channels), np.uint8)
    return Record(pixels, label, f"folder/{seed} é.png")


def same(one: Record, other: Record) -> bool:
    return one.image.tobytes() == other.image.tobytes() and one[1:] == other[1:]


@given(st.integers(0, 2**32), st.sampled_from([1, 3]), st.integers(-1, 2**40), st.text(max_size=40))
def test_a_record_survives_encoding(seed: int, channels: int, label: int, id: str) -> None:
    original = record(seed, 4, channels)._replace(label=label, id=id)
    encoded = encode_example(original)
    assert same(decode_example(encoded, 4, channels), original)
    assert encode_example(original) == encoded, "the same record always gives the same bytes"


def test_the_message_matches_tensorflow_s() -> None:
    import tensorflow as tf

    ours = record(0, label=NO_LABEL)._replace(height=480, width=640)
    theirs = tf.train.Example()
    theirs.features.feature["image"].bytes_list.value.append(ours.image.tobytes())
    theirs.features.feature["label"].int64_list.value.append(ours.label)
    theirs.features.feature["id"].bytes_list.value.append(ours.id.encode())
    older = theirs.SerializeToString()
    theirs.features.feature["height"].int64_list.value.append(480)
    theirs.features.feature["width"].int64_list.value.append(640)
    assert tf.train.Example.FromString(encode_example(ours)) == theirs
    assert same(decode_example(theirs.SerializeToString(), 4, 3), ours)
    assert decode_example(older, 4, 3)[1:] == (ours.label, ours.id, 0, 0), "datasets of older versions have no sizes"


def test_tf_data_reads_the_file_and_tensorflow_writes_the_same_bytes(tmp_path: Path) -> None:
    import tensorflow as tf

    records = [record(seed, label=seed - 1) for seed in range(9)]
    assert write_tfrecord(tmp_path / "ours", map(encode_example, records)) == 9
    schema = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "id": tf.io.FixedLenFeature([], tf.string),
    }
    dataset = tf.data.TFRecordDataset(str(tmp_path / "ours"))
    for serialized, original in zip(dataset, records, strict=True):
        parsed = tf.io.parse_single_example(serialized, schema)
        image = tf.reshape(tf.io.decode_raw(parsed["image"], tf.uint8), [4, 4, 3])
        assert same(Record(image.numpy(), int(parsed["label"]), parsed["id"].numpy().decode()), original)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for original in records:
            writer.write(encode_example(original))
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "ours").read_bytes()


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ArtifactError, match="A record holds 48 bytes, 8×8×3 are expected"):
        decode_example(encode_example(record(0)), 8, 3)


@settings(max_examples=60)
@given(st.data())
def test_every_flipped_bit_and_every_truncation_is_detected(data: st.DataObject) -> None:
    records = [encode_example(record(seed)) for seed in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x"
        write_tfrecord(file, records)
        file.write_bytes(damaged(data, file.read_bytes(), first=16 + len(records[0])))
        with pytest.raises(ArtifactError, match="is damaged at byte"):
            list(read_tfrecord(file))


def damaged(data: st.DataObject, original: bytes, first: int) -> bytes:
    content = bytearray(original)
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        # only the manifest detects a file that ends exactly between two records
        del content[data.draw(st.integers(1, len(content) - 1).filter(lambda end: end != first)) :]
    return bytes(content)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert write_tfrecord(tmp_path / "x", []) == 0
    assert list(read_tfrecord(tmp_path / "x")) == []


def test_a_split_is_read_in_the_order_of_its_shards(tmp_path: Path) -> None:
    records = {("train", 0): [record(0), record(1)], ("train", 1): [record(2)], ("eval", 0): [], ("eval", 1): [record(3)]}
    with new_artifact(tmp_path / "data", "dataset", config=IngestConfig()) as artifact:
        for (split, index), shard in records.items():
            write_tfrecord(artifact.path / shard_name(split, index, 2), map(encode_example, shard))
        artifact.counts |= {"train": 3, "eval": 1}
        artifact.details |= {"image_size": 4, "channels": 3}
    train = read_split(tmp_path / "data", "train")
    assert train.ids == tuple(record(seed).id for seed in range(3))
    assert train.labels.tolist() == [7, 7, 7]
    np.testing.assert_array_equal(train.images, [record(seed).image for seed in range(3)])
    assert read_split(tmp_path / "data", "eval").ids == (record(3).id,)


def test_shards_are_named_like_those_of_tensorflow_s_tools() -> None:
    assert shard_name("train", 3, 12) == "train-00003-of-00012.tfrecord"
