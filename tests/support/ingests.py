"""Ingest by its own command line, in a process of its own; its config and what it prints are in files beside the dataset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.common.artifacts import read_manifest
from tests.support.local_runs import ROOT


def ingest_command(out: Path, beside: Path | None = None, python: Path | str = sys.executable, **config: Any) -> list[str]:
    """Write the section [ingest] into the folder of the dataset, or into `beside`; return the command."""
    folder = beside or out.parent
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in config.items()]
    (folder / "config.toml").write_text("".join(["[ingest]\n", *lines]))
    return [str(python), "-m", "components.ingest", "--config", str(folder / "config.toml"), "--out", str(out)]


def start_ingest(
    out: Path, beside: Path | None = None, environment: dict[str, str] | None = None, **config: Any
) -> subprocess.Popen[str]:
    """Start ingest in a new session."""
    command = ingest_command(out, beside, **config)
    with (said_file(out, beside)).open("w") as stream:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
        )


def said_file(out: Path, beside: Path | None = None) -> Path:
    return (beside or out.parent) / "said"


def said(out: Path, beside: Path | None = None) -> str:
    """Return what ingest has printed."""
    return said_file(out, beside).read_text()


def ingested(out: Path, beside: Path | None = None, **config: Any) -> str:
    """Run ingest to its end; return the digest of the dataset, whose files are checked."""
    assert start_ingest(out, beside, **config).wait(timeout=300) == 0, said(out, beside)
    return read_manifest(out, "dataset").digest
