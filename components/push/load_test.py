"""Loads a SavedModel as a stranger would and checks that it keeps its promises.

Run as a file by `python -I`: plain TensorFlow, none of our code. Prints nothing and exits 0, or one sentence and 1.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

OUR_PACKAGES = ("components", "pipeline")
COUNT = 4
COUNTS = (1, 3)  # a server asks for one image, and no batch is even


def faults(model: Any, image_size: int, channels: int, latents: int) -> list[str]:
    """Return what is wrong with a loaded SavedModel, a sentence each; empty when nothing is.

    A model that was trained with labels (`generate_from_latents` takes them) must have the signature generate_labels too.
    """
    needed = {"generate", "generate_from_latents"}
    if takes_labels(model):
        needed.add("generate_labels")
    missing = sorted(needed - set(model.signatures))
    if missing:
        return [f"It has no signature {' and no signature '.join(missing)}."]
    shape = (image_size, image_size, channels)
    found = _faults_of_generate(model, shape)
    if not found:
        found = _faults_of_latents(model, shape, latents)
    if not found and takes_labels(model):
        found = _faults_of_labels(model, shape)
    return found


def takes_labels(model: Any) -> bool:
    """Return whether the networks see labels, by what the signatures ask for."""
    if "generate_labels" in model.signatures:
        return True
    signatures = [model.signatures[name] for name in ("generate_from_latents",) if name in model.signatures]
    return any("labels" in signature.structured_input_signature[1] for signature in signatures)


def _faults_of_generate(model: Any, shape: tuple[int, ...]) -> list[str]:
    import tensorflow as tf

    def generate(seed: int, count: int = COUNT) -> Any:
        outputs = model.signatures["generate"](seed=tf.constant(seed, tf.int64), count=tf.constant(count, tf.int32))
        return outputs["images"].numpy()

    found = [fault for count in (COUNT, *COUNTS) for fault in _misshaped("generate", generate(1, count), (count, *shape))][:1]
    if not found:
        found = _of_no_range("generate", generate(1))
    if not found and not np.array_equal(generate(1), generate(1)):
        found.append("generate gives different images for the same seed.")
    if not found and np.array_equal(generate(1), generate(2)):
        found.append("generate gives the same images for different seeds.")
    return found


def _faults_of_latents(model: Any, shape: tuple[int, ...], latents: int) -> list[str]:
    import tensorflow as tf

    from_latents = model.signatures["generate_from_latents"]
    drawn = np.random.default_rng(0).standard_normal((COUNT, latents))

    def images(count: int) -> Any:
        given = {"latents": tf.constant(drawn[:count], tf.float32)}
        if takes_labels(model):
            given["labels"] = tf.fill([count], tf.constant(_labels(model)[0], tf.int32))
        return from_latents(**given)["images"].numpy()

    found = [
        fault for count in (COUNT, *COUNTS) for fault in _misshaped("generate_from_latents", images(count), (count, *shape))
    ][:1]
    if not found and not np.array_equal(images(COUNT), images(COUNT)):
        found.append("generate_from_latents gives different images for the same latents.")
    return found


def _faults_of_labels(model: Any, shape: tuple[int, ...]) -> list[str]:
    import tensorflow as tf

    known = _labels(model)
    labels = tf.constant([known[0], known[-1], known[0]], tf.int32)  # an odd number, of both ends

    def images() -> Any:
        return model.signatures["generate_labels"](seed=tf.constant(1, tf.int64), labels=labels)["images"].numpy()

    found = _misshaped("generate_labels", images(), (3, *shape))
    if not found and not np.array_equal(images(), images()):
        found.append("generate_labels gives different images for the same seed.")
    return found


def _labels(model: Any) -> list[int]:
    counts = getattr(model, "label_counts", None)
    known = [] if counts is None else np.flatnonzero(counts.numpy()).tolist()
    return known or [0]


def _misshaped(signature: str, images: Any, shape: tuple[int, ...]) -> list[str]:
    if images.dtype == np.uint8 and images.shape == shape:
        return []
    return [f"{signature} returns {images.dtype} {list(images.shape)} instead of uint8 {list(shape)}."]


def _of_no_range(signature: str, images: Any) -> list[str]:
    low, high = int(images.min()), int(images.max())
    if high > 1 and low < high:
        return []
    return [f"{signature} returns values from {low} to {high}; images have values of 0 to 255."]


def main(argv: list[str]) -> int:
    """Check `argv`: SAVED_MODEL IMAGE_SIZE CHANNELS LATENTS."""
    # Where the project is installed it could be imported even under -I; nobody who uses the model has it.
    sys.modules.update(dict.fromkeys(OUR_PACKAGES))  # type: ignore[arg-type]
    import tensorflow as tf

    found = faults(tf.saved_model.load(argv[0]), *(int(number) for number in argv[1:]))
    print(" ".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
