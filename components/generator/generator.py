"""Images from a trained generator: a SavedModel, which plain TensorFlow loads without this program's code.

`python -m components.generator MODEL --count N --seed S [--label L] [--truncation T] --out FILE.npy` draws images in a
separate process; `--interpolate STEPS --strip FILE.npy` also draws interpolations between latents.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.errors import ArtifactError, ConfigError, first_line
from components.generator.latents import Latents, interpolated, truncated

Images = npt.NDArray[np.uint8]

SAVED_MODEL = "saved_model"
BATCH_SIZE = 500
STRIP_ROWS = 4
# Silences TensorFlow's start-up messages, and keeps a sampling process from taking all of the GPU's memory.
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def find_saved_model(path: Path) -> Path:
    """Return the SavedModel of a model artifact or a registry version, or `path` if it is one. Raises ArtifactError."""
    path = Path(path)
    for folder in (path / SAVED_MODEL, path):
        if (folder / "saved_model.pb").is_file():
            return folder
    raise ArtifactError(
        f"{path} holds no generator: no saved_model.pb in it or in its {SAVED_MODEL}/.",
        "Name a model artifact, a registry version, or a SavedModel.",
    )


def load(saved_model: Path) -> Any:
    """Load a SavedModel and check that it has the signature `generate`. Raises ArtifactError."""
    import tensorflow as tf

    try:
        model = tf.saved_model.load(str(saved_model))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(f"{saved_model} cannot be loaded: {first_line(error)}.", "Run train again.") from error
    if "generate" not in model.signatures:
        found = ", ".join(sorted(model.signatures)) or "none"
        raise ArtifactError(f"{saved_model} has no signature `generate` (found: {found}).", "Run train again.")
    return model


def sample(model: Any, count: int, seed: int, batch_size: int = BATCH_SIZE, label: int | None = None) -> Images:
    """Return `count` images of a loaded model, uint8 [count, H, W, C]; see `sample_batches`."""
    return np.concatenate(list(sample_batches(model, count, seed, batch_size, label)))


def sample_batches(
    model: Any,
    count: int,
    seed: int,
    batch_size: int = BATCH_SIZE,
    label: int | None = None,
    truncation: float | None = None,
) -> Iterator[Images]:
    """Yield `count` images of a loaded model in batches, uint8 [n, H, W, C]: of one label if `label` is set.

    Each batch is drawn in full from a seed that depends on (seed, batch index), and the last batch is cut. So the first n
    images do not depend on `count`, but they do depend on `batch_size`. `truncation` bounds the latents (see `truncated`).
    Raises ArtifactError when the model does not return uint8 images, ConfigError when it was not trained on the label.
    """
    if label is not None:
        check_label(model, label)
    for index in range(-(-count // batch_size)):
        batch_seed = seed_of_batch(seed, index)
        if truncation is None:
            batch = _from_seed(model, batch_seed, batch_size, label)
        else:
            generator = np.random.default_rng(batch_seed)
            latents = truncated(generator, batch_size, latents_width(model), truncation)
            batch = from_latents(model, latents, None if label is None else np.full(batch_size, label), generator)
        yield _checked(batch, batch_size)[: count - index * batch_size]


def _from_seed(model: Any, seed: int, count: int, label: int | None) -> Any:
    import tensorflow as tf

    at = tf.constant(seed, tf.int64)
    if label is None:
        return model.signatures["generate"](seed=at, count=tf.constant(count, tf.int32))["images"].numpy()
    labels = tf.fill([count], tf.constant(label, tf.int32))
    return model.signatures["generate_labels"](seed=at, labels=labels)["images"].numpy()


def strip(model: Any, steps: int, seed: int, label: int | None = None, truncation: float | None = None) -> Images:
    """Return STRIP_ROWS × steps images of interpolated latents, uint8; each row starts where the previous row ended.

    A model with labels draws all of them with one label: `label`, or one that depends on `seed`. Raises as `sample_batches`
    does.
    """
    if label is not None:
        check_label(model, label)
    generator = np.random.default_rng(seed_of_batch(seed, -1))
    shape = (STRIP_ROWS + 1, latents_width(model))
    ends = generator.standard_normal(shape) if truncation is None else truncated(generator, *shape, truncation)
    latents = interpolated(ends, steps)
    if label is None and takes_labels(model):
        label = int(_drawn_labels(model, 1, generator)[0])
    labels = None if label is None else np.full(len(latents), label)
    return _checked(from_latents(model, latents, labels, generator), len(latents))


def from_latents(model: Any, latents: Latents, labels: Any, generator: np.random.Generator) -> Any:
    """Call the signature generate_from_latents with latents [n, L]; draw the labels that it needs when `labels` is None."""
    import tensorflow as tf

    inputs = {"latents": tf.constant(latents)}
    if takes_labels(model):
        labels = _drawn_labels(model, len(latents), generator) if labels is None else labels
        inputs["labels"] = tf.constant(labels, tf.int32)
    return model.signatures["generate_from_latents"](**inputs)["images"].numpy()


def latents_width(model: Any) -> int:
    """Return the width of a loaded model's latents. Raises ArtifactError when the model does not accept latents."""
    if "generate_from_latents" not in model.signatures:
        raise ArtifactError(
            "The model has no signature generate_from_latents, so its latents cannot be chosen.",
            "Leave --truncation and --interpolate out.",
        )
    return int(_inputs(model)["latents"].shape[1])


def takes_labels(model: Any) -> bool:
    """Return whether a loaded model needs labels with its latents."""
    return "generate_from_latents" in model.signatures and "labels" in _inputs(model)


def _inputs(model: Any) -> dict[str, Any]:
    return dict(model.signatures["generate_from_latents"].structured_input_signature[1])


def _drawn_labels(model: Any, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return random labels with the frequencies of the training images, as `generate` draws them."""
    counts = label_counts(model)
    return generator.choice(len(counts), count, p=counts / counts.sum())


def _checked(batch: Any, count: int) -> Images:
    if batch.dtype != np.uint8 or batch.ndim != 4 or len(batch) != count:
        raise ArtifactError(
            f"The generator returned {batch.dtype} {list(batch.shape)}, uint8 [{count}, H, W, C] is needed.",
            "Run train again.",
        )
    images: Images = batch
    return images


def check_label(model: Any, label: int) -> None:
    """Raise ConfigError for a label that a loaded model was not trained on: the model would draw images of it anyway."""
    if "generate_labels" not in model.signatures:
        raise ConfigError(
            f"The model was trained without labels, so there is no label {label}.",
            "Leave --label out, or train with train.conditional = true.",
        )
    counts = label_counts(model)
    known = np.flatnonzero(counts)
    if label not in known:
        raise ConfigError(
            f"The model was not trained on label {label}; it knows {len(known)} labels, from {known[0]} to {known[-1]}.",
            "Use one of them.",
        )


def label_counts(model: Any) -> npt.NDArray[np.int64]:
    """Return the number of training images for each label. Raises ConfigError when the model does not record it."""
    if not hasattr(model, "label_counts"):
        raise ConfigError(
            "The model does not record which labels it was trained on: it has no label_counts.",
            "Export it with this program's train, or draw without --label, --truncation and --interpolate.",
        )
    counts: npt.NDArray[np.int64] = model.label_counts.numpy()
    return counts


def seed_of_batch(seed: int, index: int) -> int:
    """Return the seed of one batch, 63 bits: a hash, because sums such as seed + index would give two runs the same batches."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class DrawnImages(NamedTuple):
    """Images and an interpolation strip from another process: memory-mapped arrays, uint8 [N, H, W, C]."""

    images: Images
    strip: Images | None


def sample_in_fresh_process(model_dir: Path, count: int, seed: int, label: int | None = None) -> Images:
    """Return the result of `sample`, drawn in a new process from the SavedModel alone. Raises ArtifactError, ConfigError."""
    with drawn_in_fresh_process(model_dir, count, seed, label) as drawn:
        return np.array(drawn.images)


@contextlib.contextmanager
def drawn_in_fresh_process(
    model_dir: Path,
    count: int,
    seed: int,
    label: int | None = None,
    *,
    truncation: float | None = None,
    steps: int = 0,
) -> Iterator[DrawnImages]:
    """Yield images drawn in a new process, and a strip if `steps` > 0. They are on the disk: memory does not grow with `count`.

    Raises ArtifactError, ConfigError.
    """
    saved_model = find_saved_model(model_dir)
    with tempfile.TemporaryDirectory(prefix="wgan-samples-") as folder:
        file, strip_file = Path(folder) / "images.npy", Path(folder) / "strip.npy"
        command = [sys.executable, "-m", "components.generator", str(saved_model)]
        command += ["--count", str(count), "--seed", str(seed), "--out", str(file)]
        if label is not None:
            command += ["--label", str(label)]
        if truncation is not None:
            command += ["--truncation", str(truncation)]
        if steps:
            command += ["--interpolate", str(steps), "--strip", str(strip_file)]
        result = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
        if result.returncode == ConfigError.exit_code:
            raise ConfigError(last_line(result))
        if result.returncode or not file.is_file():
            raise ArtifactError(f"Sampling {saved_model} failed: {last_line(result)}", "Run train again.")
        images = np.load(file, mmap_mode="r", allow_pickle=False)
        yield DrawnImages(images, np.load(strip_file, mmap_mode="r", allow_pickle=False) if steps else None)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a failed process wrote to stderr, as a sentence, or how the process ended."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    code = result.returncode
    ended = f"ended by signal {-code}, often for lack of memory" if code < 0 else f"exit code {code}, nothing on stderr"
    line = lines[-1] if lines and code > 0 else ended
    return line if line.endswith(".") else f"{line}."


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def write_batches(file: Path, batches: Iterable[Images], count: int) -> None:
    """Write batches of `count` images in total as one .npy file, with one batch in memory at a time."""
    with file.open("wb") as stream:
        for index, batch in enumerate(batches):
            if not index:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *batch.shape[1:])}
                np.lib.format.write_array_header_1_0(stream, header)  # so that np.load can read the file
            stream.write(batch.tobytes())
