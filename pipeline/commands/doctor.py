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
from rich.markup import escape

from components.common.errors import DeviceError
from components.train.devices import gpu_runtime
from pipeline.commands.printing import console

PINNED = {"tensorflow": "2.20.0", "apache-beam": "2.77.0", "kfp": "2.17.0", "tensorflow-datasets": "4.9.10"}
MEMORY_GIBIBYTES = 2
DISK_GIBIBYTES = 2  # for runs; the 6 GiB of the README include the packages, which are installed when this runs


class Finding(NamedTuple):
    """Whether a check passed, what it found, and a cure if that depends on what it found."""

    passed: bool
    found: str
    cure: str = ""


def doctor() -> None:
    """Check what this machine can run, and print how to fix the rest."""
    out, ready = console(), True
    for name, check, required, cure in CHECKS:
        passed, found, own_cure = check()
        ready = ready and (passed or not required)
        mark = "[green]ok[/]     " if passed else "[red]missing[/]" if required else "[yellow]no[/]     "
        out.print(f"{mark} [bold]{name:<18}[/] {escape(found)}")
        if not passed:
            out.print(f"        → {escape(own_cure or cure)}", style="dim")
    out.print("\nThis machine can run the pipeline." if ready else "\nThis machine cannot run the pipeline yet: see above.")
    raise typer.Exit(0 if ready else 1)


def _python() -> Finding:
    return Finding((3, 11) <= sys.version_info[:2] <= (3, 13), platform.python_version())


def _packages() -> Finding:
    versions = {name: _version(name) for name in PINNED}
    versions["tensorflow"] = versions["tensorflow"] or _version("tensorflow-tpu")
    wrong = {name: version for name, version in versions.items() if version != PINNED[name]}
    return Finding(not wrong, ", ".join(f"{name} {version or 'missing'}" for name, version in (wrong or versions).items()))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _memory() -> Finding:
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding(gibibytes >= MEMORY_GIBIBYTES, f"{gibibytes:.0f} GiB, {os.cpu_count()} cores")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding(free >= DISK_GIBIBYTES, f"{free:.0f} GiB free here")


def _bfloat16() -> Finding:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    passed = "avx512_bf16" in flags or "amx_bf16" in flags
    return Finding(passed, f"the CPU has {'' if passed else 'no '}bfloat16 instructions")


def _tpu() -> Finding:
    passed = any(Path("/dev").glob("accel*")) or any(Path("/dev").glob("vfio/[0-9]*"))
    return Finding(passed, "TPU device found" if passed else "no TPU device (/dev/accel*, /dev/vfio/*)")


def _gpu() -> Finding:
    """Ask the driver first: TensorFlow takes seconds to start, and most machines have no GPU."""
    try:
        driver = gpu_runtime.check_driver()
        gpus = gpu_runtime.count_tensorflow_gpus()
    except DeviceError as error:
        return Finding(False, error.problem, error.cure)
    cuda = ".".join(map(str, driver.cuda))
    return Finding(
        True, f"TensorFlow finds {gpus}; the driver supports CUDA {cuda}; train.global_batch_size must divide by {gpus}"
    )


def _containers() -> Finding:
    """Look for the socket of the engine of `run --runner docker`; a remote engine is not contacted."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    scheme, _, path = host.partition("://")
    passed = scheme != "unix" or Path(path).is_socket()
    return Finding(passed, f"{'' if passed else 'no '}container engine at {host}")


# Name, check, whether every run needs it, and the cure.
CHECKS: tuple[tuple[str, Callable[[], Finding], bool, str], ...] = (
    ("Python", _python, True, "Use Python 3.11 (as the locks do), 3.12 or 3.13."),
    ("packages", _packages, True, "make setup installs the locked versions."),
    ("memory", _memory, True, f"A run needs {MEMORY_GIBIBYTES} GiB."),
    ("disk", _disk, True, f"Runs need {DISK_GIBIBYTES} GiB."),
    ("bfloat16", _bfloat16, False, "train.precision = bfloat16 works, but is slow here."),
    ("TPU", _tpu, False, "train.devices = tpu needs a TPU VM with tensorflow-tpu; cpu:N works here."),
    ("GPU", _gpu, False, "cpu:N works here."),
    ("containers", _containers, False, "Local runs use processes; --runner docker needs an engine."),
)
