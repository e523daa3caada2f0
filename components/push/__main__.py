"""`python -m components.push`: carry out the verdict on one model by hand."""

import sys

from components.common.command import main
from components.push.config import PushConfig
from components.push.run import run

if __name__ == "__main__":
    inputs = {
        "registry": "folder, gs:// or s3:// URL of the registry",
        "model": "model artifact",
        "evaluation": "evaluation artifact of the model",
        "validation": "validation artifact of the model's dataset",
        "verdict": "verdict artifact on these three, from python -m components.gate",
    }
    sys.exit(main("push", PushConfig, run, inputs))
