"""The machines on which GKE and Vertex AI rent out a TPU slice, and what to request for one (sources: docs/tpu.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from components.tpu_check.slices import SLICES, TpuSlice, find_slice, join_with_or

Platform = Literal["gke", "vertex"]
TITLES: dict[Platform, str] = {"gke": "GKE", "vertex": "Vertex AI"}
# Why a slice of several hosts does not train there.
WHY_ONE_HOST: dict[Platform, str] = {
    "gke": "but a task of a Kubeflow pipeline is one pod on one host",
    "vertex": "for which Vertex AI needs its own image with Python 3.8 or 3.10, and this program needs Python 3.11",
}


class TpuRow(NamedTuple):
    """A slice as one platform rents it out.

    `hosts` is the number of virtual machines, `accelerator` GKE's label of the nodes, and on Vertex AI the accelerator type of
    v2 and v3 (later TPUs have none).
    """

    platform: Platform
    slice: TpuSlice
    hosts: int
    machine_type: str
    accelerator: str

    @property
    def chips_per_host(self) -> int:
        """Chips of one virtual machine."""
        return self.slice.chips // self.hosts


# Machine types of a generation, the chips of each, and the accelerator. A slice uses the first machine that has exactly its
# chips, on one host; a larger slice uses several of the last machine.
_MACHINES: dict[tuple[Platform, str], tuple[tuple[str, int, str], ...]] = {
    ("gke", "v3"): (("ct3-hightpu-4t", 4, "tpu-v3-device"), ("ct3p-hightpu-4t", 4, "tpu-v3-slice")),
    ("gke", "v4"): (("ct4p-hightpu-4t", 4, "tpu-v4-podslice"),),
    ("gke", "v5e"): tuple((f"ct5lp-hightpu-{chips}t", chips, "tpu-v5-lite-podslice") for chips in (1, 8, 4)),
    ("gke", "v5p"): (("ct5p-hightpu-4t", 4, "tpu-v5p-slice"),),
    ("gke", "v6e"): tuple((f"ct6e-standard-{chips}t", chips, "tpu-v6e-slice") for chips in (1, 8, 4)),
    ("vertex", "v2"): (("cloud-tpu", 4, "TPU_V2"),),
    ("vertex", "v3"): (("cloud-tpu", 4, "TPU_V3"),),
    ("vertex", "v5e"): tuple((f"ct5lp-hightpu-{chips}t", chips, "") for chips in (1, 8, 4)),
    ("vertex", "v6e"): tuple((f"ct6e-standard-{chips}t", chips, "") for chips in (1, 8, 4)),
}


def _row(platform: Platform, piece: TpuSlice) -> TpuRow:
    machines = _MACHINES[platform, piece.generation.name]
    name, chips, accelerator = next((each for each in machines if each[1] == piece.chips), machines[-1])
    return TpuRow(platform, piece, piece.chips // chips, name, accelerator)


ROWS = tuple(
    _row(platform, piece) for platform, name in _MACHINES for piece in SLICES.values() if piece.generation.name == name
)


def check_tensorflow_runs(name: str) -> TpuSlice:
    """Return the slice of this name. Raises ValueError for one on which TensorFlow does not run on any platform."""
    piece = find_slice(name)
    if not piece.generation.tensorflow:
        reason = f"TensorFlow does not run on TPU {piece.generation.name}: Google dropped its support with v6e"
        raise ValueError(f"{reason}; use v5e:2x4 or another v5e")
    return piece


def find_training_row(platform: Platform, name: str) -> TpuRow:
    """Return the row on which a platform trains with a slice. Raises ValueError with the reason where it does not."""
    piece = check_tensorflow_runs(name)
    rows = [row for row in ROWS if row.platform == platform and row.slice.generation.tensorflow]
    use = f"use {join_with_or([row.slice.name for row in rows if row.hosts == 1])}"
    row = next((row for row in rows if row.slice == piece), None)
    if row is None:
        raise ValueError(f"{TITLES[platform]} has no TPU {piece.generation.name} to train on; {use}")
    if row.hosts > 1:
        raise ValueError(f"{name} needs {row.hosts} hosts on {TITLES[platform]}, {WHY_ONE_HOST[platform]}; {use}")
    return row


def worker_pool_specs(
    row: TpuRow, image: str, command: Sequence[str], args: Sequence[str], environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the worker_pool_specs of a Vertex AI custom job: one pool of one replica, whatever the number of hosts."""
    machine: dict[str, Any] = {"machine_type": row.machine_type, "tpu_topology": row.slice.topology}
    if row.accelerator:  # v2 and v3: Vertex AI counts cores, two on each chip, and has no topology
        cores = 2 * row.slice.chips
        machine = {"machine_type": row.machine_type, "accelerator_type": row.accelerator, "accelerator_count": cores}
    env = [{"name": name, "value": value} for name, value in environment.items()]
    container = {"image_uri": image, "command": list(command), "args": list(args), "env": env}
    return [{"machine_spec": machine, "replica_count": 1, "container_spec": container}]
