"""Whether a run without a summary is still running: its process is recorded in its folder."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Literal

from components.common.artifacts import write_json
from components.common.processes import is_alive, started_at

FILE = "process.json"


def mark(folder: Path) -> None:
    """Record this process as the one of the run in `folder`."""
    pid = os.getpid()
    write_json(folder / FILE, {"pid": pid, "started": started_at(pid), "host": platform.node()})


def state(folder: Path) -> Literal["running", "killed", "running or killed"]:
    """Return the state of a run without a summary; "running or killed" if this machine cannot know."""
    try:
        process = json.loads((folder / FILE).read_bytes())
        pid, started, host = int(process["pid"]), process["started"], process["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return "running or killed"
    if host != platform.node():
        return "running or killed"
    return "running" if is_alive(pid) and started_at(pid) == started else "killed"
