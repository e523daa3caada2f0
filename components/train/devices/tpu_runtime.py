"""Checks before TensorFlow uses a TPU. This file does not import TensorFlow, which may abort the process instead of raising.

Seen with tensorflow-tpu 2.20.0: without a TPU, the import queries Google's metadata server 30 times; it aborts if libtpu
lacks functions that it needs, or if another process uses the TPU. See docs/tpu.md, "Runtime".
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from components.common.errors import DeviceError
from components.train.devices.tpu_lock import HERE, Machine, check_free, tpu_devices

TENSORFLOW = "2.20.0"
LIBTPU = "0.0.21"  # the version in deploy/images/train-tpu/requirements.lock
# TensorFlow 2.20.0 uses PJRT 0.72 and calls 218 functions of libtpu by name. libtpu 0.0.14 and 0.0.17 have PJRT 0.68 and 0.69,
# 0.0.21 has 0.75, 0.0.24 has 0.78; 0.0.52 lacks 142 of the functions (docs/decisions/0009).
OLDEST_LIBTPU, NEWEST_LIBTPU = "0.0.21", "0.0.24"
PLAIN = ("tensorflow", "tensorflow-cpu", "tf-nightly")  # each installs a folder tensorflow/, like tensorflow-tpu
INSTALL = "Install deploy/images/train-tpu/requirements.lock in a separate environment, or use that image."


def prepare(devices: str, environment: MutableMapping[str, str] | None = None, machine: Machine = HERE) -> None:
    """Prepare this process for `devices`, before TensorFlow is imported; only `tpu` and `tpu:NAME` need it.

    Raises DeviceError for a missing TPU, incompatible packages, conflicting environment variables, or a TPU in use.
    """
    environment = os.environ if environment is None else environment
    if devices == "tpu":
        libtpu = check_machine(environment, machine)
        check_free(environment, machine)
        environment.pop("TPU_LOAD_LIBRARY", None)  # components/__init__.py sets it for processes that do not train
        environment.update(wanted_environment(libtpu))
    elif devices.startswith("tpu:"):  # the coordinator of a remote TPU must not load the TPU of its own machine
        check_packages()
        environment["TPU_LOAD_LIBRARY"] = "0"


def confirm(devices: str, environment: Mapping[str, str] | None = None, machine: Machine = HERE) -> None:
    """Check again after TensorFlow is imported, and check that `prepare` was called before. Raises DeviceError."""
    environment = os.environ if environment is None else environment
    if devices != "tpu":
        check_packages()
        return
    libtpu = check_machine(environment, machine)
    if not wanted_environment(libtpu).items() <= environment.items():
        raise DeviceError(
            "TensorFlow was imported before this process was prepared for a TPU.",
            "Call components.train.devices.tpu_runtime.prepare first, like `python -m components.train` and the train step.",
        )


def check_machine(environment: Mapping[str, str], machine: Machine = HERE) -> Path:
    """Return the path of libtpu. Raises DeviceError unless this machine can train on its own TPU."""
    check_device(machine)
    libtpu = check_packages()
    check_one_host(environment)
    check_environment(libtpu, environment)
    return libtpu


def check_device(machine: Machine = HERE) -> None:
    """Raise DeviceError if this machine has no TPU, or this user may not open it."""
    devices = tpu_devices(machine)
    if not devices:
        raise DeviceError(
            f'train.devices = "tpu", but there is no TPU on this machine (no {machine.dev}/accel0, no {machine.dev}/vfio/0).',
            "Run on a TPU VM, or use --set train.devices=cpu:1.",
        )
    closed = [str(path) for path in devices if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        raise DeviceError(
            f"User {os.getuid()} has no permission to open {closed[0]} ({len(closed)} of {len(devices)} TPU chips).",
            "Give the devices to the container (--device, or the TPU limit of its pod), or add the user to their group.",
        )


def check_packages() -> Path:
    """Return the path of libtpu. Raises DeviceError unless tensorflow-tpu is the only TensorFlow, with a compatible libtpu."""
    tensorflow_tpu, libtpu = _version("tensorflow-tpu"), _version("libtpu")
    plain = [f"{name} {version}" for name in PLAIN if (version := _version(name))]
    if not tensorflow_tpu:
        installed = f"plain {plain[0]}" if plain else "no TensorFlow"
        raise DeviceError(f"A TPU needs tensorflow-tpu {TENSORFLOW}; {installed} is installed.", INSTALL)
    if plain:
        raise DeviceError(
            f"{plain[0]} is installed beside tensorflow-tpu {tensorflow_tpu}; their files are mixed in one folder tensorflow/.",
            INSTALL,
        )
    if tensorflow_tpu != TENSORFLOW:
        raise DeviceError(f"tensorflow-tpu {tensorflow_tpu} is installed; this program needs {TENSORFLOW}.", INSTALL)
    if not libtpu:
        raise DeviceError(f"tensorflow-tpu {tensorflow_tpu} is installed without libtpu.", f"Install libtpu=={LIBTPU}.")
    if not _numbers(OLDEST_LIBTPU) <= _numbers(libtpu) <= _numbers(NEWEST_LIBTPU):
        raise DeviceError(
            f"libtpu {libtpu} is incompatible with tensorflow-tpu {tensorflow_tpu}, which needs libtpu {OLDEST_LIBTPU} to"
            f" {NEWEST_LIBTPU}.",
            f"Install libtpu=={LIBTPU}.",
        )
    return Path(str(importlib.metadata.distribution("libtpu").locate_file("libtpu/libtpu.so")))


def check_one_host(environment: Mapping[str, str]) -> None:
    """Raise DeviceError if this machine is one of several hosts of a slice: libtpu would wait for the others."""
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(hosts) > 1:
        raise DeviceError(
            f'train.devices = "tpu" needs a slice with one host; this slice has {len(hosts)} (TPU_WORKER_HOSTNAMES).',
            "Use a slice with one host, or train.devices=tpu:NAME on one coordinator.",
        )


def wanted_environment(libtpu: Path) -> dict[str, str]:
    """Return the environment variables with which TensorFlow loads `libtpu` through PJRT."""
    return {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": str(libtpu),
        "TPU_LIBRARY_PATH": str(libtpu),
    }


def check_environment(libtpu: Path, environment: Mapping[str, str]) -> None:
    """Raise DeviceError if environment variables keep TensorFlow from loading `libtpu` through PJRT."""
    for name, value in wanted_environment(libtpu).items():
        if environment.get(name, value) != value:
            raise DeviceError(f"{name} is {environment[name]!r}; training on a TPU needs {value!r}.", f"Unset {name}.")
    if not libtpu.is_file():
        raise DeviceError(f"libtpu is installed, but its file {libtpu} is missing.", f"Install libtpu=={LIBTPU} again.")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: (0, 0, 21, 1) for 0.0.21.1."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
