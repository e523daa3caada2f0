"""`python -m components.gate`: judge one model by hand."""

import sys

from components.common.command import main
from components.gate.config import GateConfig
from components.gate.run import run

if __name__ == "__main__":
    inputs = {
        "registry": "folder, gs:// or s3:// URL of the registry with the champion",
        "model": "model artifact",
        "evaluation": "evaluation artifact of the model",
        "validation": "validation artifact of the model's dataset",
    }
    sys.exit(main("gate", GateConfig, run, inputs))
