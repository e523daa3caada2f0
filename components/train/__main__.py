"""Train by hand: python -m components.train --config FILE --dataset DIR --validation DIR --work-dir DIR --out DIR."""

from pathlib import Path

from components.common.command import main
from components.common.section import Summary
from components.train.config import TrainConfig
from components.train.devices.tpu_runtime import prepare


def run(config: TrainConfig, **directories: Path) -> Summary:
    """Train, once the process is ready for its devices: TensorFlow looks for a TPU when it is imported.

    Without a pipeline there is no registry: train.start_from names the model or the version itself.
    """
    prepare(config.devices)
    from components.train.run import run as train

    return train(config, **directories, start=Path(config.start_from) if config.start_from else None)


if __name__ == "__main__":
    inputs = {"dataset": "dataset artifact", "validation": "validation artifact", "work_dir": "where checkpoints live"}
    raise SystemExit(main("train", TrainConfig, run, inputs))
