"""Share of a quickstart run that is overhead, and the seconds of a cached second run; prints a JSON line.

The work of the steps is the sum of the seconds in their journal entries. Everything else is overhead: interpreters, imports of
KFP, compiling the graph, the report. Both runs use the command line, in a new folder.

    python benchmarks/pipeline_overhead.py [--set SECTION.KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed_run(folder: str, overrides: list[str]) -> tuple[float, dict[str, dict[str, float]]]:
    """Run the pipeline; return the wall-clock seconds and the steps of summary.json."""
    command = [sys.executable, "-m", "pipeline", "run", "--set", f"run.dir={folder}"]
    started = time.monotonic()
    subprocess.run([*command, *(word for item in overrides for word in ("--set", item))], check=True, stdout=sys.stderr)
    return time.monotonic() - started, json.loads((Path(folder) / "latest" / "summary.json").read_text())["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    overrides = parser.parse_args().overrides
    with tempfile.TemporaryDirectory() as folder:
        seconds, steps = timed_run(folder, overrides)
        cached_seconds, cached_steps = timed_run(folder, overrides)
    work = sum(row["seconds"] for row in steps.values())
    row = {
        "benchmark": "pipeline_overhead",
        "overhead_share": round((seconds - work) / seconds, 3),
        "run_seconds": round(seconds, 1),
        "steps_seconds": {step: round(row["seconds"], 1) for step, row in steps.items()},
        "cached_run_seconds": round(cached_seconds, 1),
        "every_step_cached": all(row["cached"] for row in cached_steps.values()),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
