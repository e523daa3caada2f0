"""What this machine has: `python -m components.tpu_check.first_hour.probe machine|replicas DEVICES` prints it as JSON.

`replicas` prepares the TPU as the train step does, so it must be a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import sys
from collections import Counter
from pathlib import Path

from components.common.errors import PipelineError
from components.train.config import TrainConfig
from components.train.devices import tpu_lock, tpu_runtime

GOOGLE = "0x1ae0"  # PCI vendor
CHIPS = {"0x0027": "v2 or v3", "0x005e": "v4", "0x0062": "v5p", "0x0063": "v5e", "0x006f": "v6e"}  # jax/_src/hardware_utils.py
PACKAGES = ("tensorflow-tpu", "tensorflow", "libtpu", "keras", "numpy")


def machine(_: str) -> dict[str, str]:
    """Return user, TPU device files, chips, packages and environment."""
    installed = {each.name.lower().replace("_", "-"): each.version for each in importlib.metadata.distributions()}
    return {
        "user": f"{os.getuid()} in groups {' '.join(map(str, sorted(os.getgroups())))}",
        "device files": "; ".join(map(_described, tpu_lock.tpu_devices())) or "none",
        "chips on PCI": pci_chips() or "none",
        "packages": ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed),
        "TPU variables": ", ".join(f"{name}={value}" for name, value in os.environ.items() if name.startswith("TPU_"))
        or "none",
    }


def pci_chips(devices: Path = Path("/sys/bus/pci/devices")) -> str:
    """Return the number and kind of the TPU chips on this machine's PCI bus, such as "8 × v5e"; empty if there are none."""
    ids = [
        (folder / "device").read_text().strip()
        for folder in sorted(devices.glob("*"))
        if (folder / "vendor").read_text().strip() == GOOGLE
    ]
    return ", ".join(f"{count} × {CHIPS.get(each, each)}" for each, count in Counter(ids).items())


def _described(path: Path) -> str:
    status = path.stat()
    try:
        owner = f"{path.owner()} {path.group()}"
    except KeyError:  # they have no names
        owner = f"{status.st_uid} {status.st_gid}"
    return f"{stat.filemode(status.st_mode)} {owner} {path}"


def replicas(devices: str) -> dict[str, str]:
    """Create the strategy; return its class, its number of replicas and its devices. Raises DeviceError."""
    tpu_runtime.prepare(devices)
    import tensorflow as tf

    from components.train.devices.strategy import make_strategy

    strategy = make_strategy(TrainConfig(devices=devices))
    kinds = Counter(device.device_type for device in tf.config.list_logical_devices())
    return {
        "strategy": type(strategy).__name__,
        "replicas": str(strategy.num_replicas_in_sync),
        "devices of TensorFlow": ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
    }


if __name__ == "__main__":
    try:
        print(json.dumps({"machine": machine, "replicas": replicas}[sys.argv[1]](sys.argv[2])))
    except PipelineError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
