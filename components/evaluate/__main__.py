"""`python -m components.evaluate`: score a model by hand."""

import sys

from components.common.command import main
from components.evaluate.config import EvaluateConfig
from components.evaluate.run import run

if __name__ == "__main__":
    inputs = {
        "dataset": "dataset artifact that the model was trained on",
        "model": "model artifact to score",
        "work_dir": "folder that caches extractors between runs",
    }
    sys.exit(main("evaluate", EvaluateConfig, run, inputs))
