"""`doctor`: what this machine can and cannot do, and how to fix it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import typer

from pipeline.commands.printing import console

PINNED = {"tensorflow": "2.20.0", "apache-beam": "2.77.0", "kfp": "2.17.0", "tensorflow-datasets": "4.9.10"}
MEMORY_GIBIBYTES = 2
DISK_GIBIBYTES = 2  # for runs; the 6 GiB of the README include the packages, which are installed when this runs


class Diagnosis(NamedTuple):
    """The result of one check: whether it passed, whether every run needs it, what was found, and how to fix it."""

    name: str
    passed: bool
    required: bool
    found: str
    cure: str = ""


def doctor() -> None:
    """Check what this machine can run, and print how to fix the rest."""
    diagnoses = [check() for check in CHECKS]
    out = console()
    for each in diagnoses:
        mark = "[green]ok[/]     " if each.passed else "[red]missing[/]" if each.required else "[yellow]no[/]     "
        out.print(f"{mark} [bold]{each.name:<18}[/] {each.found}")
        if not each.passed and each.cure:
            out.print(f"        → {each.cure}", style="dim")
    ready = all(each.passed or not each.required for each in diagnoses)
    out.print("\nThis machine can run the pipeline." if ready else "\nThis machine cannot run the pipeline yet: see above.")
    raise typer.Exit(0 if ready else 1)


def _python() -> Diagnosis:
    passed = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Diagnosis("Python", passed, True, platform.python_version(), "Use Python 3.11 (as the locks do), 3.12 or 3.13.")


def _packages() -> Diagnosis:
    versions = {name: _version(name) for name in PINNED}
    versions["tensorflow"] = versions["tensorflow"] or _version("tensorflow-tpu")
    wrong = {name: version for name, version in versions.items() if version != PINNED[name]}
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in (wrong or versions).items())
    return Diagnosis("packages", not wrong, True, found, "make setup installs the locked versions.")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _memory() -> Diagnosis:
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = f"{gibibytes:.0f} GiB, {os.cpu_count()} cores"
    return Diagnosis("memory", gibibytes >= MEMORY_GIBIBYTES, True, found, f"A run needs {MEMORY_GIBIBYTES} GiB.")


def _disk() -> Diagnosis:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Diagnosis("disk", free >= DISK_GIBIBYTES, True, f"{free:.0f} GiB free here", f"Runs need {DISK_GIBIBYTES} GiB.")


def _bfloat16() -> Diagnosis:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    passed = "avx512_bf16" in flags or "amx_bf16" in flags
    found = f"the CPU has {'' if passed else 'no '}bfloat16 instructions"
    return Diagnosis("bfloat16", passed, False, found, "train.precision = bfloat16 works, but is slow here.")


def _tpu() -> Diagnosis:
    passed = any(Path("/dev").glob("accel*")) or any(Path("/dev").glob("vfio/[0-9]*"))
    found = "TPU device found" if passed else "no TPU device (/dev/accel*, /dev/vfio/*)"
    cure = "train.devices = tpu needs a TPU VM with tensorflow-tpu; cpu:N works here."
    return Diagnosis("TPU", passed, False, found, cure)


def _gpu() -> Diagnosis:
    passed = Path("/dev/nvidia0").exists()
    return Diagnosis("GPU", passed, False, "NVIDIA device found" if passed else "no NVIDIA device", "cpu:N works here.")


def _containers() -> Diagnosis:
    """Check the engine of `run --runner docker`; one that is not a local socket is not contacted."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    scheme, _, path = host.partition("://")
    passed = scheme != "unix" or Path(path).is_socket()
    found = f"container engine at {host}" if passed else f"no container engine at {host}"
    return Diagnosis("containers", passed, False, found, "Local runs use processes; --runner docker needs an engine.")


CHECKS: tuple[Callable[[], Diagnosis], ...] = (_python, _packages, _memory, _disk, _bfloat16, _tpu, _gpu, _containers)
