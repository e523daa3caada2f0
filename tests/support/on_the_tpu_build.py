"""Load a checkpoint and a model that tensorflow wrote, with tensorflow-tpu. Run by the Python of the TPU image's lock.

on_the_tpu_build.py MODEL TRAINING CONFIG_JSON OUT.npz
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import components  # first, since it keeps TensorFlow from loading libtpu

# isort: split
import numpy as np
import tensorflow as tf

from components.common.artifacts import read_manifest
from components.common.store import Folder
from components.train import step
from components.train.config import TrainConfig
from components.train.devices.strategy import make_strategy
from components.train.networks import ImageShape
from components.train.saving import checkpoint, variables
from components.train.saving.export import Generator


def main(model: Path, training: Path, config: TrainConfig, out: Path) -> None:
    """Write the images of the SavedModel and of the checkpoint's moving average, both for the same seed."""
    manifest = read_manifest(model, "model")
    shape = ImageShape(manifest.details["image_size"], manifest.details["channels"], manifest.details["classes"])
    served = tf.saved_model.load(str(model / "saved_model")).signatures["generate"]
    state = step.make_state(shape, config, make_strategy(config))
    last = checkpoint.load_latest(Folder(training), config, shape)
    assert last is not None
    checkpoint.check_variables(str(training), last.arrays, variables.state_arrays(state))
    variables.load_arrays(state, last.arrays)
    generator = Generator(shape, config)
    generator.set_weights(variables.averages(state))
    np.savez(
        out,
        served=served(seed=tf.constant(7, tf.int64), count=tf.constant(50))["images"].numpy(),
        checkpointed=generator.generate(tf.constant(7, tf.int64), tf.constant(50))["images"].numpy(),
        round=last.progress.round,
        **{f"state/{name}": array for name, array in variables.state_arrays(state).items()},
    )


if __name__ == "__main__":
    assert components.__file__
    main(Path(sys.argv[1]), Path(sys.argv[2]), TrainConfig(**json.loads(sys.argv[3])), Path(sys.argv[4]))
