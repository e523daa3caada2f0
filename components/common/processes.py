"""Processes of this machine: whether one is alive, and what identifies it although ids are reused."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Return whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


def started_at(pid: int) -> str:
    """Return when a process started, in kernel ticks ("" if not on Linux): ids are reused, id and start together are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def id_space() -> str:
    """Return a name of this machine's processes: the same for processes that can see each other, until the machine restarts.

    Containers have process ids of their own, so the name has the kernel's id of the namespace. Without Linux it is the host's.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()
