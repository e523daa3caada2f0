"""`python -m components.report`: rewrite the report of a run from its journal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from components.common.errors import PipelineError, first_line
from components.report.description import RunDescription
from components.report.run import run


def main(argv: list[str] | None = None) -> int:
    """Parse `--description FILE --out DIR [--status S] [--message M]`, write the report, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.report")
    parser.add_argument("--description", type=Path, required=True, help="JSON file with the description of the run")
    parser.add_argument("--out", type=Path, required=True, help="output folder for summary.json and report.html")
    parser.add_argument("--status", default="succeeded", choices=("succeeded", "failed", "interrupted"))
    parser.add_argument("--message", default="", help="the runner's error message")
    arguments = parser.parse_args(argv)
    try:
        description = RunDescription.model_validate_json(arguments.description.read_bytes())
        summary = run(description, folder=arguments.out, status=arguments.status, message=arguments.message)
    except (OSError, ValidationError) as error:
        print(f"report: {arguments.description} cannot be read: {first_line(error)}", file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"report: {error}", file=sys.stderr)
        return error.exit_code
    print(summary.model_dump_json(indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
