"""Which process holds the TPU of this machine: a TPU serves one, and libtpu ends the second with an abort."""

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
    """Where the kernel shows devices and processes, and the file that libtpu locks."""

    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    lock: Path = Path("/tmp/libtpu_lockfile")


HERE = Machine()


def tpu_devices(machine: Machine = HERE) -> list[Path]:
    """Return the device files of the TPU chips of this machine: /dev/accel0… (v2 to v4) or /dev/vfio/0… (v5e and later)."""
    return sorted(path for pattern in ("accel[0-9]*", "vfio/[0-9]*") for path in machine.dev.glob(pattern))


def check_free(environment: Mapping[str, str], machine: Machine = HERE) -> None:
    """Refuse a TPU that another process holds, naming it where it can be seen. Raises DeviceError."""
    if environment.get("ALLOW_MULTIPLE_LIBTPU_LOAD") or environment.get("TPU_CHIPS_PER_PROCESS_BOUNDS"):
        return  # several processes, each with chips of its own: libtpu takes no lock then
    pid = lock_holder(machine.lock)
    if pid is None:
        pid = device_holder(tpu_devices(machine), machine.proc)
    if pid is not None:
        who = f"process {pid}{_command(pid, machine.proc)}" if pid else f"a process that holds {machine.lock}"
        raise DeviceError(f"The TPU is in use by {who}.", "Wait for it, or end it: a TPU serves one process at a time.")


def lock_holder(file: Path) -> int | None:
    """Return who holds the lock that libtpu takes: a process id, 0 where it is out of sight, None where nobody does.

    Not once libtpu is loaded: closing the file drops the locks that this process has on it. Raises DeviceError.
    """
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise DeviceError(
            f"{file} belongs to another user, so that libtpu cannot take the TPU.", f"Remove {file} when nobody uses the TPU."
        ) from None
    try:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    finally:
        os.close(handle)
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def device_holder(devices: list[Path], proc: Path) -> int | None:
    """Return a process that has one of the device files open, among those that this user may look at."""
    names = {str(device) for device in devices}
    for folder in proc.glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            if any(str(link.readlink()) in names for link in (folder / "fd").iterdir()):
                return int(folder.name)
        except OSError:  # it has ended, or is another user's
            continue
    return None


def _command(pid: int, proc: Path) -> str:
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""
    return f" ({' '.join(words.split())[:80]})"
