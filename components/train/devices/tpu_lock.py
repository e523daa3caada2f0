"""Finds the process that uses the TPU of this machine. A TPU serves one process at a time; libtpu aborts a second one."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from components.common.errors import DeviceError

FLOCK = "@hhqqi4x"  # struct flock of Linux on x86-64: type, whence, start, length, pid


class Machine(NamedTuple):
    """The folders of devices and processes, and the file that libtpu locks."""

    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    lock: Path = Path("/tmp/libtpu_lockfile")


HERE = Machine()


def tpu_devices(machine: Machine = HERE) -> list[Path]:
    """Return the device files of the TPU chips of this machine: /dev/accel0… (v2 to v4) or /dev/vfio/0… (v5e and later)."""
    return sorted(path for pattern in ("accel[0-9]*", "vfio/[0-9]*") for path in machine.dev.glob(pattern))


def check_free(environment: Mapping[str, str], machine: Machine = HERE) -> None:
    """Raise DeviceError if another process uses the TPU; the message names the process if it is visible."""
    if environment.get("ALLOW_MULTIPLE_LIBTPU_LOAD") or environment.get("TPU_CHIPS_PER_PROCESS_BOUNDS"):
        return  # several processes share the chips, and libtpu takes no lock
    pid = lock_holder(machine.lock)
    if pid is None:
        pid = device_holder(tpu_devices(machine), machine.proc)
    if pid is not None:
        who = f"process {pid}{_command(pid, machine.proc)}" if pid else f"a process that holds {machine.lock}"
        raise DeviceError(f"The TPU is in use by {who}.", "Wait until it ends, or end it: a TPU serves one process at a time.")


def lock_holder(file: Path) -> int | None:
    """Return the id of the process that holds libtpu's lock: 0 if it is in another container, None if the lock is free.

    Do not call this after libtpu is loaded: closing the file releases this process's own lock. Raises DeviceError.
    """
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise DeviceError(
            f"{file} belongs to another user, so libtpu cannot lock the TPU.", f"Remove {file} when nobody uses the TPU."
        ) from None
    try:
        request = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, request))
    finally:
        os.close(handle)
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def device_holder(devices: list[Path], proc: Path) -> int | None:
    """Return the id of a process that has one of the device files open; processes of other users are not visible."""
    names = {str(device) for device in devices}
    for folder in proc.glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            if any(str(link.readlink()) in names for link in (folder / "fd").iterdir()):
                return int(folder.name)
        except OSError:  # the process has ended, or belongs to another user
            continue
    return None


def _command(pid: int, proc: Path) -> str:
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""
    return f" ({' '.join(words.split())[:80]})"
