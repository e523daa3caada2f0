"""`doctor`: what this machine can and cannot do, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

PINNED = {"tensorflow": "2.20.0", "apache-beam": "2.77.0", "kfp": "2.17.0", "tensorflow-datasets": "4.9.10"}
NEEDED_GIBIBYTES = 2


class Check(NamedTuple):
    """One thing looked at: fine or not, needed by every run or only by some, what was seen, how to mend it."""

    name: str
    fine: bool
    needed: bool
    seen: str
    cure: str = ""


def examine() -> int:
    """Print every check; return 0 when a local run will work, else 1."""
    checks = [check() for check in CHECKS]
    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        mark = "[green]ok[/]     " if check.fine else "[red]missing[/]" if check.needed else "[yellow]no[/]     "
        console.print(f"{mark} [bold]{check.name:<18}[/] {check.seen}")
        if not check.fine and check.cure:
            console.print(f"        → {check.cure}", style="dim")
    ready = all(check.fine or not check.needed for check in checks)
    console.print("\nThis machine can run the pipeline." if ready else "\nThis machine cannot run the pipeline yet: see above.")
    return 0 if ready else 1


def _python() -> Check:
    fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("Python", fine, True, platform.python_version(), "Use Python 3.11 (the locks are for it), 3.12 or 3.13.")


def _packages() -> Check:
    found = {name: _version(name) for name in PINNED}
    found["tensorflow"] = found["tensorflow"] or _version("tensorflow-tpu")
    wrong = [f"{name} {version or 'absent'}" for name, version in found.items() if version != PINNED[name]]
    seen = ", ".join(wrong) if wrong else ", ".join(f"{name} {version}" for name, version in found.items())
    return Check("packages", not wrong, True, seen, "make setup installs the locked versions.")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _memory() -> Check:
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    seen = f"{gibibytes:.0f} GiB, {os.cpu_count()} cores"
    return Check("memory", gibibytes >= NEEDED_GIBIBYTES, True, seen, f"{NEEDED_GIBIBYTES} GiB are needed.")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", free >= NEEDED_GIBIBYTES, True, f"{free:.0f} GiB free here", f"{NEEDED_GIBIBYTES} GiB are needed.")


def _bfloat16() -> Check:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    fine = "avx512_bf16" in flags or "amx_bf16" in flags
    seen = "the CPU has bfloat16 instructions" if fine else "the CPU has no bfloat16 instructions"
    return Check("bfloat16", fine, False, seen, "train.precision = bfloat16 works, but is slow here.")


def _tpu() -> Check:
    fine = any(Path("/dev").glob("accel*")) or any(Path("/dev").glob("vfio/[0-9]*"))
    seen = "a TPU device is here" if fine else "no TPU device (/dev/accel*, /dev/vfio/*)"
    cure = "train.devices = tpu needs a TPU VM with tensorflow-tpu; cpu:N works here."
    return Check("TPU", fine, False, seen, cure)


def _gpu() -> Check:
    fine = Path("/dev/nvidia0").exists()
    return Check("GPU", fine, False, "an NVIDIA device is here" if fine else "no NVIDIA device", "cpu:N works here.")


def _docker() -> Check:
    socket = Path("/var/run/docker.sock").exists()
    seen = "a Docker socket is here" if socket else "no Docker engine"
    return Check("containers", socket, False, seen, "Not needed: local runs use processes.")


CHECKS: tuple[Callable[[], Check], ...] = (_python, _packages, _memory, _disk, _bfloat16, _tpu, _gpu, _docker)
