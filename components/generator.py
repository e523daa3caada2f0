"""Images from a trained generator: a SavedModel that plain TensorFlow loads, none of our code in its graph.

`python -m components.generator MODEL --count N --seed S [--label L] --out FILE.npy` draws them in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.errors import ArtifactError, ConfigError, PipelineError

SAVED_MODEL = "saved_model"
BATCH_SIZE = 500
# What TensorFlow would print otherwise is its start-up noise; and a step that samples must not take the whole GPU.
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def find_saved_model(path: Path) -> Path:
    """Return the SavedModel in a model artifact, in a version of a registry, or `path` itself. Raises ArtifactError."""
    path = Path(path)
    for folder in (path / SAVED_MODEL, path):
        if (folder / "saved_model.pb").is_file():
            return folder
    raise ArtifactError(
        f"{path} holds no generator: no saved_model.pb in it or in its {SAVED_MODEL}/.",
        "Name a model artifact, a version of a registry, or a SavedModel.",
    )


def load(saved_model: Path) -> Any:
    """Load a SavedModel and check that it has the signature `generate`. Raises ArtifactError."""
    import tensorflow as tf

    try:
        model = tf.saved_model.load(str(saved_model))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(f"{saved_model} cannot be loaded: {_first_line(error)}.", "Run train again.") from error
    if "generate" not in model.signatures:
        found = ", ".join(sorted(model.signatures)) or "none"
        raise ArtifactError(f"{saved_model} has no signature `generate` (found: {found}).", "Run train again.")
    return model


def sample(model: Any, count: int, seed: int, batch_size: int = BATCH_SIZE, label: int | None = None) -> npt.NDArray[np.uint8]:
    """Return `count` images of a loaded model, uint8 [count, H, W, C]; of one label, where `label` names it.

    Every batch is drawn whole, from a seed that is a function of (seed, index of the batch), and the last one is cut:
    so the first n images are the same whatever the count. Another `batch_size` gives other images. Raises
    ArtifactError when the model returns anything but uint8 images, ConfigError when it does not know the label.
    """
    import tensorflow as tf

    generate, given = model.signatures["generate"], {"count": tf.constant(batch_size, tf.int32)}
    if label is not None:
        check_label(model, label)
        generate, given = model.signatures["generate_labels"], {"labels": tf.fill([batch_size], tf.constant(label, tf.int32))}
    batches = []
    for index in range(-(-count // batch_size)):
        batch_seed = tf.constant(seed_of_batch(seed, index), tf.int64)
        batch = generate(seed=batch_seed, **given)["images"].numpy()
        if batch.dtype != np.uint8 or batch.ndim != 4 or len(batch) != batch_size:
            raise ArtifactError(
                f"The generator returned {batch.dtype} {list(batch.shape)}, uint8 [{batch_size}, H, W, C] is needed.",
                "Run train again.",
            )
        batches.append(batch)
    images: npt.NDArray[np.uint8] = np.concatenate(batches)[:count]
    return images


def check_label(model: Any, label: int) -> None:
    """Refuse a label that a loaded model did not train on: of a label it does not know it would draw something all the same.

    Raises ConfigError.
    """
    if "generate_labels" not in model.signatures:
        raise ConfigError(
            f"The model was trained without labels, so there is no label {label}.",
            "Leave --label out, or train with train.conditional = true.",
        )
    counts = model.label_counts.numpy()
    known = np.flatnonzero(counts)
    if label not in known:
        raise ConfigError(
            f"The model saw no image of label {label}; it knows {len(known)} labels, from {known[0]} to {known[-1]}.",
            "Use one of them.",
        )


def seed_of_batch(seed: int, index: int) -> int:
    """Return the seed of one batch, 63 bits: a hash, so that no two (seed, index) share a batch by plain arithmetic."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_in_fresh_process(model_dir: Path, count: int, seed: int, label: int | None = None) -> npt.NDArray[np.uint8]:
    """Return what `sample` returns, from a process that has nothing but the SavedModel. Raises ArtifactError, ConfigError."""
    saved_model = find_saved_model(model_dir)
    with tempfile.TemporaryDirectory(prefix="wgan-samples-") as folder:
        file = Path(folder) / "images.npy"
        command = [sys.executable, "-m", "components.generator", str(saved_model)]
        command += ["--count", str(count), "--seed", str(seed), "--out", str(file)]
        command += [] if label is None else ["--label", str(label)]
        result = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
        if result.returncode == ConfigError.exit_code:
            raise ConfigError(last_line(result))
        if result.returncode or not file.is_file():
            raise ArtifactError(f"Sampling {saved_model} failed: {last_line(result)}", "Run train again.")
        images: npt.NDArray[np.uint8] = np.load(file, allow_pickle=False)
        return images


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the last line a failed process wrote to stderr, as a sentence; or how it ended when it wrote nothing."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    code = result.returncode
    ended = f"ended by signal {-code}, often for lack of memory" if code < 0 else f"exit code {code}, nothing on stderr"
    line = lines[-1] if lines and code > 0 else ended
    return line if line.endswith(".") else f"{line}."


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def main(argv: list[str] | None = None) -> int:
    """Draw images and write them as a .npy file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.generator", description="Draw images of a generator.")
    parser.add_argument("model", type=Path, help="model artifact, version of a registry, or SavedModel")
    parser.add_argument("--count", type=int, required=True, help="images to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", type=int, help="only images of this label")
    parser.add_argument("--out", type=Path, required=True, help=".npy file to write: uint8 [count, H, W, C]")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count {arguments.count}: at least 1 is needed")
    try:
        images = sample(load(find_saved_model(arguments.model)), arguments.count, arguments.seed, label=arguments.label)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    with arguments.out.open("wb") as stream:
        np.save(stream, images, allow_pickle=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
