"""Whether a run without a summary is still running: its process is recorded in its folder."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Literal

from components.common.artifacts import write_json

FILE = "process.json"


def mark(folder: Path) -> None:
    """Record this process as the one of the run in `folder`."""
    pid = os.getpid()
    write_json(folder / FILE, {"pid": pid, "started": _started(pid), "host": platform.node()})


def state(folder: Path) -> Literal["running", "killed", "running or killed"]:
    """Return the state of a run without a summary; "running or killed" if this machine cannot know."""
    try:
        process = json.loads((folder / FILE).read_bytes())
        pid, started, host = int(process["pid"]), process["started"], process["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return "running or killed"
    if host != platform.node():
        return "running or killed"
    return "running" if is_alive(pid) and _started(pid) == started else "killed"


def is_alive(pid: int) -> bool:
    """Return whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """Return when a process started, in kernel ticks ("" if not on Linux): ids are reused, id and start together are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
