"""`python -m components.validate --config FILE --dataset DIR --out DIR`."""

import sys

from components.common.command import main
from components.validate.config import ValidateConfig
from components.validate.run import run

if __name__ == "__main__":
    sys.exit(main("validate", ValidateConfig, run, {"dataset": "dataset folder, as ingest writes it"}))
