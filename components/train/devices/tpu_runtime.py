"""What is looked at before TensorFlow touches a TPU; imports no TensorFlow, which may end the process instead of raising.

Seen with tensorflow-tpu 2.20.0: importing it asks Google's metadata server 30 times where there is no TPU; it aborts with a
libtpu that lacks its functions, and with one that another process holds. docs/tpu.md, "Runtime".
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
LIBTPU = "0.0.21"  # the one in deploy/images/train-tpu/requirements.lock
# TensorFlow 2.20.0 speaks PJRT 0.72 and calls 218 functions of libtpu by name. 0.0.14 and 0.0.17 speak 0.68 and 0.69, 0.0.21
# speaks 0.75 and 0.0.24 speaks 0.78; 0.0.52 lacks 142 of the functions (docs/decisions/0009).
OLDEST_LIBTPU, NEWEST_LIBTPU = "0.0.21", "0.0.24"
PLAIN = ("tensorflow", "tensorflow-cpu", "tf-nightly")  # each brings a folder tensorflow/, as tensorflow-tpu does
INSTALL = "Install deploy/images/train-tpu/requirements.lock in an environment of its own, or use that image."


def prepare(devices: str, environment: MutableMapping[str, str] | None = None, machine: Machine = HERE) -> None:
    """Make this process ready for `devices` before TensorFlow is imported; only `tpu` and `tpu:NAME` need it.

    Raises DeviceError in one sentence: no TPU, packages that do not go together, variables that lead elsewhere, or a TPU that
    another process holds.
    """
    environment = os.environ if environment is None else environment
    if devices == "tpu":
        libtpu = check_machine(environment, machine)
        check_free(environment, machine)
        environment.pop("TPU_LOAD_LIBRARY", None)  # components/__init__.py sets it for those who do not train
        environment.update(wanted_environment(libtpu))
    elif devices.startswith("tpu:"):  # the coordinator of a TPU elsewhere leaves the one of its own machine alone
        check_packages()
        environment["TPU_LOAD_LIBRARY"] = "0"


def confirm(devices: str, environment: Mapping[str, str] | None = None, machine: Machine = HERE) -> None:
    """Look again once TensorFlow is imported, and whether `prepare` was called before. Raises DeviceError as it does."""
    environment = os.environ if environment is None else environment
    if devices != "tpu":
        check_packages()
        return
    libtpu = check_machine(environment, machine)
    if not wanted_environment(libtpu).items() <= environment.items():
        raise DeviceError(
            "TensorFlow was imported before this process was made ready for a TPU.",
            "Call components.train.devices.tpu_runtime.prepare first, as `python -m components.train` and the train step do.",
        )


def check_machine(environment: Mapping[str, str], machine: Machine = HERE) -> Path:
    """Return where libtpu lies. Raises DeviceError unless this machine can train on a TPU of its own."""
    check_device(machine)
    libtpu = check_packages()
    check_one_host(environment)
    check_environment(libtpu, environment)
    return libtpu


def check_device(machine: Machine = HERE) -> None:
    """Refuse a machine without a TPU, or with one that this user may not open. Raises DeviceError."""
    devices = tpu_devices(machine)
    if not devices:
        raise DeviceError(
            f'train.devices = "tpu", but there is no TPU on this machine (no {machine.dev}/accel0, no {machine.dev}/vfio/0).',
            "Run on a TPU VM, or use --set train.devices=cpu:1.",
        )
    closed = [str(path) for path in devices if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        raise DeviceError(
            f"User {os.getuid()} may not open {closed[0]} ({len(closed)} of {len(devices)} TPU chips are closed to it).",
            "Give the container its devices (--device, or the TPU limit of its pod), or the user their group.",
        )


def check_packages() -> Path:
    """Return where libtpu lies. Raises DeviceError unless tensorflow-tpu is here alone, with a libtpu of its era."""
    tensorflow_tpu, libtpu = _version("tensorflow-tpu"), _version("libtpu")
    plain = [f"{name} {version}" for name in PLAIN if (version := _version(name))]
    if not tensorflow_tpu:
        found = f"plain {plain[0]}" if plain else "no TensorFlow"
        raise DeviceError(f"A TPU needs tensorflow-tpu {TENSORFLOW}, here is {found}.", INSTALL)
    if plain:
        raise DeviceError(
            f"{plain[0]} is installed beside tensorflow-tpu {tensorflow_tpu}: both write the folder tensorflow/, so that it may"
            " hold files of either.",
            INSTALL,
        )
    if tensorflow_tpu != TENSORFLOW:
        raise DeviceError(f"tensorflow-tpu {tensorflow_tpu} is installed, this program needs {TENSORFLOW}.", INSTALL)
    if not libtpu:
        raise DeviceError(f"tensorflow-tpu {tensorflow_tpu} is installed without libtpu.", f"Install libtpu=={LIBTPU}.")
    if not _numbers(OLDEST_LIBTPU) <= _numbers(libtpu) <= _numbers(NEWEST_LIBTPU):
        raise DeviceError(
            f"libtpu {libtpu} and tensorflow-tpu {tensorflow_tpu} are of different eras; this TensorFlow goes with"
            f" libtpu {OLDEST_LIBTPU} to {NEWEST_LIBTPU}.",
            f"Install libtpu=={LIBTPU}.",
        )
    return Path(str(importlib.metadata.distribution("libtpu").locate_file("libtpu/libtpu.so")))


def check_one_host(environment: Mapping[str, str]) -> None:
    """Refuse one machine of a slice of several: libtpu would wait for the others. Raises DeviceError."""
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(hosts) > 1:
        raise DeviceError(
            f'train.devices = "tpu" is for a slice of one host, this machine is one of {len(hosts)} (TPU_WORKER_HOSTNAMES).',
            "Take a slice of one host, or train.devices=tpu:NAME on one coordinator.",
        )


def wanted_environment(libtpu: Path) -> dict[str, str]:
    """Return the variables that make TensorFlow load `libtpu` through PJRT."""
    return {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": str(libtpu),
        "TPU_LIBRARY_PATH": str(libtpu),
    }


def check_environment(libtpu: Path, environment: Mapping[str, str]) -> None:
    """Refuse variables that lead TensorFlow elsewhere than to `libtpu` through PJRT. Raises DeviceError."""
    for name, value in wanted_environment(libtpu).items():
        if environment.get(name, value) != value:
            raise DeviceError(f"{name} is {environment[name]!r}, training on a TPU needs {value!r}.", f"Unset {name}.")
    if not libtpu.is_file():
        raise DeviceError(f"libtpu is installed, but its file {libtpu} is not there.", f"Install libtpu=={LIBTPU} again.")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return 0.0.21.1 as (0, 0, 21, 1): enough for the versions of libtpu."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
