"""Train by hand: python -m components.train --config FILE --dataset DIR --validation DIR --work-dir DIR --out DIR."""

from components.command import main
from components.train.config import TrainConfig
from components.train.run import run

if __name__ == "__main__":
    inputs = {"dataset": "dataset artifact", "validation": "validation artifact", "work_dir": "where checkpoints live"}
    raise SystemExit(main("train", TrainConfig, run, inputs))
