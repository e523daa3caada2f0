"""`python -m components.train`: train by hand."""

from pathlib import Path

from components.common.command import main
from components.common.section import Summary
from components.train.config import TrainConfig
from components.train.devices.tpu_runtime import prepare


def run(config: TrainConfig, **directories: Path) -> Summary:
    """Prepare the process for its devices, then train. TensorFlow looks for a TPU as soon as it is imported.

    There is no registry without a pipeline, so train.start_from is the folder of a model or a version.
    """
    prepare(config.devices)
    from components.train.run import run as train

    return train(config, **directories, start=Path(config.start_from) if config.start_from else None)


if __name__ == "__main__":
    inputs = {"dataset": "dataset artifact", "validation": "validation artifact", "work_dir": "folder of the checkpoints"}
    raise SystemExit(main("train", TrainConfig, run, inputs))
