"""Why TensorFlow finds no NVIDIA GPU: the driver, the packages of the extra `gpu`, or TensorFlow itself.

This file does not import TensorFlow, so that `wgan-pipeline doctor` and a run can check the driver at once.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from components.common.errors import DeviceError, first_line

TENSORFLOW = "2.20.0"
# TensorFlow 2.20.0 is built with CUDA 12.5. With a driver for an earlier 12.x it runs too, since all of 12.x need driver 525 or
# later: docs.nvidia.com/deploy/cuda-compatibility, "Minor Version Compatibility".
OLDEST_CUDA, OLDEST_DRIVER = (12, 0), 525
INSTALL = "Install requirements/gpu.lock, or wgan-tpu-pipeline[gpu]; see docs/scaling.md."
OTHERWISE = "or use --set train.devices=cpu:1."
COUNT_GPUS = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"


class Driver(NamedTuple):
    """What NVIDIA's driver reports: the newest CUDA (major, minor) that it supports, and the number of GPUs."""

    cuda: tuple[int, int]
    gpus: int


def check_driver(dev: Path = Path("/dev"), library: str = "libcuda.so.1") -> Driver:
    """Return what the driver reports. Raises DeviceError if it is missing, does not start or is too old for TensorFlow."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise _no_driver(dev, library, error) from None
    if code := cuda.cuInit(0):
        raise DeviceError(
            f"NVIDIA's driver does not start: cuInit returns {code} ({_error_name(cuda, code)}).",
            _cure_of_start(dev),
        )
    version, gpus = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(gpus))
    supported = (version.value // 1000, version.value % 1000 // 10)  # 12040 is CUDA 12.4
    if supported < OLDEST_CUDA:
        raise DeviceError(
            f"NVIDIA's driver supports CUDA {_dotted(supported)}; TensorFlow {TENSORFLOW} needs {_dotted(OLDEST_CUDA)}.",
            f"Install driver {OLDEST_DRIVER} or later, {OTHERWISE}",
        )
    return Driver(supported, gpus.value)


def check_packages() -> None:
    """Raise DeviceError unless plain TensorFlow and all of its CUDA packages are installed."""
    try:
        version, required = importlib.metadata.version("tensorflow"), importlib.metadata.requires("tensorflow") or []
    except importlib.metadata.PackageNotFoundError:
        raise DeviceError(f"A GPU needs plain tensorflow {TENSORFLOW}, which is not installed.", INSTALL) from None
    cuda = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in required if re.search(r"extra == .and-cuda.", text)]
    if missing := [name for name in cuda if not _is_installed(name)]:
        raise DeviceError(
            f"A GPU needs the CUDA packages of tensorflow {version}; {len(missing)} of {len(cuda)} are missing: {missing[0]} …",
            INSTALL,
        )


def why_no_gpu(reason: str = "") -> DeviceError:
    """Return the error for a TensorFlow that finds no GPU; `reason` is what TensorFlow said, if it said something."""
    try:
        driver = check_driver()
        check_packages()
    except DeviceError as error:
        return error
    said = f" ({reason})" if reason else ""
    return DeviceError(
        f"NVIDIA's driver lists GPUs ({driver.gpus}), but TensorFlow uses none of them{said}.",
        f'The messages of this command name what it cannot load: python -c "{COUNT_GPUS}".',
    )


def count_tensorflow_gpus() -> int:
    """Return how many GPUs TensorFlow finds in a new process. Raises DeviceError if there are none, with the cause."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", COUNT_GPUS]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise why_no_gpu(first_line(re.sub(r"^[\w.]+Error: ", "", last)))
    if not (gpus := int(done.stdout)):
        raise why_no_gpu()
    return gpus


def _no_driver(dev: Path, library: str, error: OSError) -> DeviceError:
    if not (dev / "nvidia0").exists() and not (dev / "dxg").exists():  # /dev/dxg: Windows Subsystem for Linux
        return DeviceError(
            f"There is no NVIDIA driver on this machine (no {library}, no {dev}/nvidia0).",
            f"Use a machine with an NVIDIA GPU and driver {OLDEST_DRIVER} or later, {OTHERWISE}",
        )
    return DeviceError(
        f"This machine has an NVIDIA GPU, but its driver library cannot be loaded: {first_line(error)}.",
        f"Install NVIDIA's driver again; in a container, start it with the NVIDIA Container Toolkit (--gpus all), {OTHERWISE}",
    )


def _cure_of_start(dev: Path) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES is {visible!r}: unset it, {OTHERWISE}"
    if not (dev / "nvidia0").exists():
        return f"There is no {dev}/nvidia0: give the GPU to the container (--gpus all) or the virtual machine, {OTHERWISE}"
    return f"Run nvidia-smi; after an update of the driver, restart the machine, {OTHERWISE}"


def _error_name(cuda: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    cuda.cuGetErrorName(code, ctypes.byref(name))
    return (name.value or b"unknown").decode()


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
