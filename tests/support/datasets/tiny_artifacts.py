"""Small artifacts for the tests of evaluate and push: real digits, and generators that are plain TensorFlow.

A tiny generator has a fixed bank of images. It returns some of them, chosen by its seed, with noise, so its quality and its
faults are known in advance.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from components.common.artifacts import new_artifact
from components.dataset.records import ImageSet, Record, encode_example, shard_name, write_tfrecord
from components.generator import generator
from components.ingest.config import IngestConfig
from components.train.config import TrainConfig
from components.validate.config import ValidateConfig

LATENTS = 4
TRAIN, HELD_OUT = 900, 300  # the remaining 597 digits are the images of an honest generator

Images = npt.NDArray[np.uint8]


@cache
def digits() -> ImageSet:
    """All 1,797 digits of scikit-learn in a fixed random order, uint8 [1797, 8, 8, 1]."""
    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    images = np.rint(raw.images[order, :, :, None] * (255 / 16)).astype(np.uint8)
    return ImageSet(images, raw.target[order].astype(np.int64), tuple(f"digit-{index}" for index in order))


def part(name: str) -> ImageSet:
    """Return the digits of one part: train, eval or rest."""
    rows = {"train": slice(TRAIN), "eval": slice(TRAIN, TRAIN + HELD_OUT), "rest": slice(TRAIN + HELD_OUT, None)}[name]
    return ImageSet(*(field[rows] for field in digits()))


def write_dataset(path: Path, *, labels: bool = True, train: int = TRAIN, held_out: int = HELD_OUT) -> Path:
    """Write a dataset artifact of digits like the one of ingest."""
    parts = {
        split: ImageSet(*(field[:count] for field in part(split))) for split, count in (("train", train), ("eval", held_out))
    }
    return write_images(path, parts, labels=labels)


def write_images(path: Path, parts: dict[str, ImageSet], *, labels: bool = True) -> Path:
    """Write a dataset artifact with the splits `train` and `eval`; labels are 0 to 9."""
    with new_artifact(path, "dataset", config=IngestConfig()) as writer:
        for split, images in parts.items():
            rows = zip(*images, strict=True)
            records = (Record(image, int(label) if labels else -1, name) for image, label, name in rows)
            write_tfrecord(writer.path / shard_name(split, 0, 1), (encode_example(record) for record in records))
            writer.counts[split] = len(images.images)
        _, size, _, channels = parts["train"].images.shape
        names = [str(digit) for digit in range(10)] if labels else []
        writer.details = {"image_size": size, "channels": channels, "label_names": names}
    return path


def write_validation(path: Path, dataset: Path) -> Path:
    """Write a validation artifact like the one of validate."""
    with new_artifact(path, "validation", config=ValidateConfig(), inputs={"dataset": dataset}) as writer:
        writer.details = {"anomalies": []}
    return path


def write_model(path: Path, bank: Images, *, noise: int = 0, fault: str = "") -> Path:
    """Write a model artifact like the one of train; see `save_generator`."""
    _, size, _, channels = bank.shape
    with new_artifact(path, "model", config=TrainConfig(latents=LATENTS)) as writer:
        save_generator(writer.path / "saved_model", bank, noise=noise, fault=fault)
        writer.details = {"image_size": size, "channels": channels, "latents": LATENTS}
    return path


def sample_here(model: Path, count: int, seed: int) -> Images:
    """Return what `sample_in_fresh_process` returns, as test_generator shows, without starting a process."""
    return generator.sample(generator.load(generator.find_saved_model(model)), count, seed)


def save_generator(folder: Path, bank: Images, *, noise: int = 0, fault: str = "") -> None:
    """Save a generator that returns images of `bank` plus uniform noise of up to ± `noise` grey levels.

    fault: "float" returns float32; "random" returns other images at every call; "constant" returns the same images for every
    seed; "size" returns images with one column too few; "latents" has no signature for latents; "dark" returns values of 0 and
    1; "one" returns two images when one is requested.
    """
    import tensorflow as tf

    module: Any = tf.Module()
    module.bank = tf.Variable(bank, trainable=False)

    def pick(rows: Any, added: Any) -> dict[str, Any]:
        images = tf.cast(tf.gather(module.bank, rows), tf.int32) + added
        images = tf.cast(tf.clip_by_value(images, 0, 255), tf.uint8)
        images = tf.cast(images, tf.float32) if fault == "float" else images
        images = images // 255 if fault == "dark" else images
        return {"images": images[:, :, :-1] if fault == "size" else images}

    def from_seed(seed: Any, count: Any) -> dict[str, Any]:
        if fault == "one":
            count = tf.maximum(count, 2)
        if fault == "random":
            seed = tf.random.uniform([], maxval=2**31, dtype=tf.int64)
        pair = tf.stack([tf.zeros_like(seed) if fault == "constant" else seed, tf.zeros_like(seed)])
        rows = tf.random.stateless_uniform([count], pair, maxval=len(bank), dtype=tf.int32)
        shape = tf.concat([[count], bank.shape[1:]], axis=0)
        return pick(rows, tf.random.stateless_uniform(shape, pair + 1, -noise, noise + 1, dtype=tf.int32))

    def from_latents(latents: Any) -> dict[str, Any]:
        return pick(tf.cast(tf.abs(latents[:, 0]) * 1000.0, tf.int32) % len(bank), 0)

    scalars = [tf.TensorSpec([], tf.int64, "seed"), tf.TensorSpec([], tf.int32, "count")]
    signatures = {"generate": tf.function(from_seed, input_signature=scalars)}
    if fault != "latents":
        latents = [tf.TensorSpec([None, LATENTS], tf.float32, "latents")]
        signatures["generate_from_latents"] = tf.function(from_latents, input_signature=latents)
    module.functions = list(signatures.values())  # the module must own what a signature uses
    tf.saved_model.save(module, str(folder), signatures=signatures)
