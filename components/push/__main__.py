"""`python -m components.push`: decide on a model by hand."""

import sys

from components.common.command import main
from components.push.config import PushConfig
from components.push.run import run

if __name__ == "__main__":
    inputs = {
        "registry": "folder or gs:// address of versions and of the champion pointer",
        "model": "model artifact to decide on",
        "evaluation": "its evaluation artifact",
        "validation": "validation artifact of its dataset",
    }
    sys.exit(main("push", PushConfig, run, inputs))
