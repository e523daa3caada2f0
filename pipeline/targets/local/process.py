"""Whether a run that has no summary yet still goes on: its process, kept in its folder."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Literal

from components.common.artifacts import write_json

FILE = "process.json"


def mark(folder: Path) -> None:
    """Write down that this process runs the run of `folder`."""
    pid = os.getpid()
    write_json(folder / FILE, {"pid": pid, "started": _started(pid), "host": platform.node()})


def state(folder: Path) -> Literal["running", "killed", "running or killed"]:
    """Return what became of the process of a run without a summary; both where it cannot be told from this machine."""
    try:
        process = json.loads((folder / FILE).read_bytes())
        pid, started, host = int(process["pid"]), process["started"], process["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return "running or killed"
    if host != platform.node():
        return "running or killed"
    return "running" if is_alive(pid) and _started(pid) == started else "killed"


def is_alive(pid: int) -> bool:
    """Return whether a process with this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks: a number is used again, the two together are not. Empty if not Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
