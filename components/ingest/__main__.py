"""`python -m components.ingest --config FILE --out DIR`."""

import sys

from components.common.command import main
from components.ingest.config import IngestConfig
from components.ingest.run import run

if __name__ == "__main__":
    sys.exit(main("ingest", IngestConfig, run, {}))
