"""Which TPU slices there are, and what a cluster must be asked for them: pure functions of one table."""

from __future__ import annotations

from typing import NamedTuple


class TpuSlice(NamedTuple):
    """A single-host slice: its name here, chips, and GKE's names for accelerator and topology."""

    name: str
    chips: int
    gke_accelerator: str
    gke_topology: str


# Single-host rows of Google's tables for GKE (TPU v5e, machine types ct5lp-hightpu-{1,4,8}t); docs/decisions/0005.
SLICES = {
    row.name: row
    for row in (
        TpuSlice("v5e:1x1", 1, "tpu-v5-lite-podslice", "1x1"),
        TpuSlice("v5e:2x2", 4, "tpu-v5-lite-podslice", "2x2"),
        TpuSlice("v5e:2x4", 8, "tpu-v5-lite-podslice", "2x4"),
    )
}


def gke_node_selector(row: TpuSlice) -> dict[str, str]:
    """Return the node labels that GKE puts on the machines of a slice."""
    return {
        "cloud.google.com/gke-tpu-accelerator": row.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": row.gke_topology,
    }
