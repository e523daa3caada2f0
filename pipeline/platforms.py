"""Which TPUs there are and what to ask for them on Vertex AI and GKE: pure functions of one table (sources: docs/tpu.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

Platform = Literal["gke", "vertex"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)
TITLES: dict[Platform, str] = {"gke": "GKE", "vertex": "Vertex AI"}
# Why a slice of several hosts, which the table has, does not train here.
WHY_ONE_HOST: dict[Platform, str] = {
    "gke": "and a task of a Kubeflow pipeline is one pod, which is on one of them",
    "vertex": "for which Vertex AI wants TensorFlow in its own image with Python 3.8 or 3.10, and this program needs 3.11",
}
TENSORFLOW = "tensorflow"

TPU_RESOURCE = "google.com/tpu"
ACCELERATOR_LABEL = "cloud.google.com/gke-tpu-accelerator"
TOPOLOGY_LABEL = "cloud.google.com/gke-tpu-topology"
SPOT_LABEL = "cloud.google.com/gke-spot"


class Generation(NamedTuple):
    """What all TPUs of a generation share.

    `replicas_per_chip` is the most that TPUStrategy may make of a chip: a batch that divides by them divides by fewer too.
    `price_class` orders the on-demand list prices of a chip-hour: low < 1.5 USD <= middle < 3 USD <= high.
    """

    replicas_per_chip: int
    framework: str
    price_class: Literal["low", "middle", "high"]


GENERATIONS = {
    "v2": Generation(2, TENSORFLOW, "low"),
    "v3": Generation(2, TENSORFLOW, "middle"),
    # Two cores: one replica where they work as one (megacore), two where they do not. No source says which TPUStrategy gets.
    "v4": Generation(2, TENSORFLOW, "high"),
    "v5e": Generation(1, TENSORFLOW, "low"),
    "v5p": Generation(1, TENSORFLOW, "high"),
    "v6e": Generation(1, "jax, pytorch", "middle"),
}


class TpuSlice(NamedTuple):
    """Chips that work together, wherever they are rented; `name` is GENERATION:SHAPE, as in a config."""

    name: str
    generation: str
    topology: str
    chips: int
    replicas: int


class TpuRow(NamedTuple):
    """A slice as one platform rents it: on how many hosts (virtual machines), and what it must be asked for.

    `accelerator` is GKE's label of the nodes, and on Vertex AI the accelerator type of v2 and v3 (later TPUs have none).
    `image` is the folder of deploy/images whose container trains there.
    """

    platform: Platform
    slice: TpuSlice
    hosts: int
    machine_type: str
    accelerator: str
    framework: str
    image: str
    price_class: str

    @property
    def chips_per_host(self) -> int:
        """Chips of one virtual machine."""
        return self.slice.chips // self.hosts


# Platform, generation, machine type, its chips, accelerator, topologies. A topology that two machine types make is listed with
# the one that needs fewer hosts. TPU v2 and v3 have no topology on Vertex AI: a number of cores stands for it.
_MACHINES: tuple[tuple[Platform, str, str, int, str, str], ...] = (
    ("gke", "v3", "ct3-hightpu-4t", 4, "tpu-v3-device", "2x2"),
    ("gke", "v3", "ct3p-hightpu-4t", 4, "tpu-v3-slice", "4x4 4x8 8x8 8x16 16x16 16x32 32x32"),
    ("gke", "v4", "ct4p-hightpu-4t", 4, "tpu-v4-podslice", "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8"),
    ("gke", "v5e", "ct5lp-hightpu-1t", 1, "tpu-v5-lite-podslice", "1x1"),
    ("gke", "v5e", "ct5lp-hightpu-4t", 4, "tpu-v5-lite-podslice", "2x2"),
    ("gke", "v5e", "ct5lp-hightpu-8t", 8, "tpu-v5-lite-podslice", "2x4"),
    ("gke", "v5e", "ct5lp-hightpu-4t", 4, "tpu-v5-lite-podslice", "4x4 4x8 8x8 8x16 16x16"),
    ("gke", "v5p", "ct5p-hightpu-4t", 4, "tpu-v5p-slice", "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8"),
    ("gke", "v6e", "ct6e-standard-1t", 1, "tpu-v6e-slice", "1x1"),
    ("gke", "v6e", "ct6e-standard-4t", 4, "tpu-v6e-slice", "2x2"),
    ("gke", "v6e", "ct6e-standard-8t", 8, "tpu-v6e-slice", "2x4"),
    ("gke", "v6e", "ct6e-standard-4t", 4, "tpu-v6e-slice", "4x4 4x8 8x8 8x16 16x16"),
    ("vertex", "v2", "cloud-tpu", 4, "TPU_V2", "2x2 4x4 8x8 8x16 16x16"),
    ("vertex", "v3", "cloud-tpu", 4, "TPU_V3", "2x2 4x4 4x8 8x8 8x16 16x16 16x32 32x32"),
    ("vertex", "v5e", "ct5lp-hightpu-1t", 1, "", "1x1"),
    ("vertex", "v5e", "ct5lp-hightpu-4t", 4, "", "2x2"),
    ("vertex", "v5e", "ct5lp-hightpu-8t", 8, "", "2x4"),
    ("vertex", "v5e", "ct5lp-hightpu-4t", 4, "", "4x4 4x8 8x8 8x16 16x16"),
    ("vertex", "v6e", "ct6e-standard-1t", 1, "", "1x1"),
    ("vertex", "v6e", "ct6e-standard-4t", 4, "", "2x2"),
    ("vertex", "v6e", "ct6e-standard-8t", 8, "", "2x4"),
    ("vertex", "v6e", "ct6e-standard-4t", 4, "", "4x4 4x8 8x8 8x16 16x16"),
)


def _slice(generation: str, topology: str) -> TpuSlice:
    chips = math.prod(int(side) for side in topology.split("x"))
    return TpuSlice(f"{generation}:{topology}", generation, topology, chips, chips * GENERATIONS[generation].replicas_per_chip)


def _rows() -> tuple[TpuRow, ...]:
    rows = []
    for platform, generation, machine_type, chips_per_host, accelerator, topologies in _MACHINES:
        _, framework, price_class = GENERATIONS[generation]
        for piece in (_slice(generation, topology) for topology in topologies.split()):
            hosts = piece.chips // chips_per_host
            image = "train-tpu" if framework == TENSORFLOW else ""
            rows.append(TpuRow(platform, piece, hosts, machine_type, accelerator, framework, image, price_class))
    return tuple(rows)


ROWS = _rows()
SLICES = {
    row.slice.name: row.slice
    for row in sorted(ROWS, key=lambda row: (list(GENERATIONS).index(row.slice.generation), row.slice.chips))
}


def find_slice(name: str) -> TpuSlice:
    """Return the slice of a name such as v5e:2x4. Raises ValueError that names the slices there are."""
    generation, _, topology = name.partition(":")
    if generation not in GENERATIONS:
        raise ValueError(f"use GENERATION:TOPOLOGY, such as v5e:2x4, with GENERATION one of {', '.join(GENERATIONS)}")
    if name not in SLICES:
        there_are = [piece.name for piece in SLICES.values() if piece.generation == generation]
        raise ValueError(f"{topology!r} is no topology of TPU {generation}; use {_or(there_are)}")
    return SLICES[name]


def check_tensorflow_runs(name: str) -> TpuSlice:
    """Return the slice, or refuse one on which TensorFlow does not run wherever it is rented. Raises ValueError."""
    piece = find_slice(name)
    if GENERATIONS[piece.generation].framework != TENSORFLOW:
        reason = f"TensorFlow does not run on TPU {piece.generation}: Google supports it no longer from v6e on"
        raise ValueError(f"{reason}; use v5e:2x4 or another v5e")
    return piece


def find_training_row(platform: Platform, name: str) -> TpuRow:
    """Return the row on which a platform trains with a slice. Raises ValueError with the reason where it does not."""
    piece = check_tensorflow_runs(name)
    there = [row for row in ROWS if row.platform == platform and row.framework == TENSORFLOW]
    use = f"use {_or([row.slice.name for row in there if row.hosts == 1])}"
    row = next((row for row in there if row.slice == piece), None)
    if row is None:
        raise ValueError(f"{TITLES[platform]} has no TPU {piece.generation} to train on; {use}")
    if row.hosts > 1:
        raise ValueError(f"{name} is {row.hosts} hosts on {TITLES[platform]}, {WHY_ONE_HOST[platform]}; {use}")
    return row


def _or(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]])


def gke_node_selector(row: TpuRow, *, spot: bool = False) -> dict[str, str]:
    """Return the labels that GKE puts on the machines of a slice."""
    labels = {ACCELERATOR_LABEL: row.accelerator, TOPOLOGY_LABEL: row.slice.topology}
    return labels | ({SPOT_LABEL: "true"} if spot else {})


def gke_tolerations(*, spot: bool = False) -> list[dict[str, str]]:
    """Return what a pod must tolerate to be placed on a machine with TPUs."""
    tpu = {"key": TPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
    return [tpu, {"key": SPOT_LABEL, "operator": "Equal", "value": "true", "effect": "NoSchedule"}] if spot else [tpu]


def gke_limits(row: TpuRow) -> dict[str, int]:
    """Return the resources of a pod: all chips of its machine, fewer are not given."""
    return {TPU_RESOURCE: row.chips_per_host}


def worker_pool_specs(
    row: TpuRow, image: str, command: Sequence[str], args: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the worker_pool_specs of a Vertex AI custom job: one pool of one replica, whatever the number of hosts."""
    container: dict[str, Any] = {"image_uri": image, "command": list(command), "args": list(args)}
    if environment:
        container["env"] = [{"name": name, "value": value} for name, value in environment.items()]
    return [{"machine_spec": _machine_spec(row), "replica_count": 1, "container_spec": container}]


def _machine_spec(row: TpuRow) -> dict[str, Any]:
    if row.platform != "vertex":
        raise ValueError(f"{row.slice.name} on {TITLES[row.platform]} is no row of Vertex AI")
    if row.accelerator:  # v2 and v3: Vertex AI counts cores, of which a chip has two, and knows no topology
        cores = 2 * row.slice.chips
        return {"machine_type": row.machine_type, "accelerator_type": row.accelerator, "accelerator_count": cores}
    return {"machine_type": row.machine_type, "tpu_topology": row.slice.topology}


def scheduling(row: TpuRow, *, spot: bool = False) -> dict[str, str]:
    """Return the scheduling of a Vertex AI custom job. Raises ValueError for spot machines of a slice of several hosts."""
    if spot and row.hosts > 1:
        raise ValueError(f"{row.slice.name} is {row.hosts} hosts, and Vertex AI has spot machines for one host only")
    return {"strategy": "SPOT" if spot else "STANDARD"}
