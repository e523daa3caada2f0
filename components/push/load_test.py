"""Loads a SavedModel as a stranger would and checks that it keeps its promises.

Run as a file by `python -I`: plain TensorFlow, none of our code. Prints nothing and exits 0, or one sentence and 1.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

OUR_PACKAGES = ("components", "pipeline")
COUNT = 4


def faults(model: Any, image_size: int, channels: int, latents: int) -> list[str]:
    """Return what is wrong with a loaded SavedModel, a sentence each; empty when nothing is."""
    missing = sorted({"generate", "generate_from_latents"} - set(model.signatures))
    if missing:
        return [f"It has no signature {' and no signature '.join(missing)}."]
    import tensorflow as tf

    def generate(seed: int) -> Any:
        outputs = model.signatures["generate"](seed=tf.constant(seed, tf.int64), count=tf.constant(COUNT, tf.int32))
        return outputs["images"].numpy()

    shape = (COUNT, image_size, image_size, channels)
    found = _misshaped("generate", generate(1), shape)
    if not found and not np.array_equal(generate(1), generate(1)):
        found.append("generate gives different images for the same seed.")
    if not found and np.array_equal(generate(1), generate(2)):
        found.append("generate gives the same images for different seeds.")
    drawn = tf.constant(np.random.default_rng(0).standard_normal((COUNT, latents)), tf.float32)
    from_latents = model.signatures["generate_from_latents"]
    first, second = (from_latents(latents=drawn)["images"].numpy() for _ in range(2))
    found += _misshaped("generate_from_latents", first, shape)
    if not np.array_equal(first, second):
        found.append("generate_from_latents gives different images for the same latents.")
    return found


def _misshaped(signature: str, images: Any, shape: tuple[int, ...]) -> list[str]:
    if images.dtype == np.uint8 and images.shape == shape:
        return []
    return [f"{signature} returns {images.dtype} {list(images.shape)} instead of uint8 {list(shape)}."]


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
