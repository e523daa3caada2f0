"""Loads a SavedModel with plain TensorFlow and none of our code, as a user of the model would, and checks its signatures.

Run as a file by `python -I`. Prints nothing and exits 0, or prints one sentence and exits 1.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

OUR_PACKAGES = ("components", "pipeline")
# TensorFlow imports them if it can, which takes longer than the rest of its import (components/common/imports.py). A server of
# models has none of them, not even Keras.
UNUSED_PACKAGES = ("jax", "keras", "matplotlib", "scipy", "sklearn")
COUNTS = (4, 1, 3)  # a server asks for one image; a batch may be odd


def first_fault(model: Any, image_size: int, channels: int, latents: int) -> str:
    """Return the first thing that is wrong with a loaded SavedModel, as a sentence; empty if nothing is.

    A model that was trained with labels (`generate_from_latents` takes them) must have the signature generate_labels too.
    """
    return next(_faults(model, (image_size, image_size, channels), latents), "")


def _faults(model: Any, shape: tuple[int, ...], latents: int) -> Iterator[str]:
    import tensorflow as tf

    def images(name: str, **inputs: Any) -> Any:
        return model.signatures[name](**inputs)["images"].numpy()

    def generate(seed: int, count: int = COUNTS[0]) -> Any:
        return images("generate", seed=tf.constant(seed, tf.int64), count=tf.constant(count, tf.int32))

    drawn = np.random.default_rng(0).standard_normal((COUNTS[0], latents))
    conditional, known = takes_labels(model), known_labels(model)

    def from_latents(count: int) -> Any:
        labels = {"labels": tf.fill([count], tf.constant(known[0], tf.int32))} if conditional else {}
        return images("generate_from_latents", latents=tf.constant(drawn[:count], tf.float32), **labels)

    def from_labels() -> Any:
        labels = tf.constant([known[0], known[-1], known[0]], tf.int32)
        return images("generate_labels", seed=tf.constant(1, tf.int64), labels=labels)

    for name in ("generate", "generate_from_latents", *(["generate_labels"] if conditional else [])):
        if name not in model.signatures:
            yield f"It has no signature {name}."
    for count in COUNTS:
        yield from _shape_faults("generate", generate(1, count), (count, *shape))
    images_of_seed = generate(1)
    low, high = int(images_of_seed.min()), int(images_of_seed.max())
    if high <= 1 or low == high:
        yield f"generate returns values from {low} to {high}; images have values of 0 to 255."
    if not np.array_equal(images_of_seed, generate(1)):
        yield "generate returns different images for the same seed."
    if np.array_equal(images_of_seed, generate(2)):
        yield "generate returns the same images for different seeds."
    for count in COUNTS:
        yield from _shape_faults("generate_from_latents", from_latents(count), (count, *shape))
    if not np.array_equal(from_latents(4), from_latents(4)):
        yield "generate_from_latents returns different images for the same latents."
    if conditional:
        yield from _shape_faults("generate_labels", from_labels(), (3, *shape))
        if not np.array_equal(from_labels(), from_labels()):
            yield "generate_labels returns different images for the same seed."


def takes_labels(model: Any) -> bool:
    """Return whether the model was trained with labels, according to its signatures."""
    if "generate_labels" in model.signatures:
        return True
    from_latents = model.signatures.get("generate_from_latents")
    return from_latents is not None and "labels" in from_latents.structured_input_signature[1]


def known_labels(model: Any) -> list[int]:
    """Return the labels that the model saw in training; [0] if it does not say."""
    counts = getattr(model, "label_counts", None)
    known = [] if counts is None else np.flatnonzero(counts.numpy()).tolist()
    return known or [0]


def _shape_faults(signature: str, images: Any, shape: tuple[int, ...]) -> Iterator[str]:
    if images.dtype != np.uint8 or images.shape != shape:
        yield f"{signature} returns {images.dtype} {list(images.shape)} instead of uint8 {list(shape)}."


def main(argv: list[str]) -> int:
    """Check `argv`: SAVED_MODEL IMAGE_SIZE CHANNELS LATENTS."""
    # Even under -I an installed project could be imported; a user of the model does not have it.
    sys.modules.update(dict.fromkeys((*OUR_PACKAGES, *UNUSED_PACKAGES)))  # type: ignore[arg-type]
    gc.disable()  # this process ends soon
    import tensorflow as tf

    fault = first_fault(tf.saved_model.load(argv[0]), *(int(number) for number in argv[1:]))
    print(fault, file=sys.stderr)
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
