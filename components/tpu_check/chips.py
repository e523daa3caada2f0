"""What each TPU generation can do at most, and which slices of it there are."""

from __future__ import annotations

import math
import re
from typing import NamedTuple


class Chip(NamedTuple):
    """Published peaks of one chip: bfloat16 operations a second, bytes of HBM, bytes a second of HBM and of ICI, one way.

    `replicas` is how many devices libtpu makes of it: the two cores of a v4 are two, and share its peaks.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_bytes_per_second: float
    ici_bytes_per_second: float
    dimensions: int  # of its topologies
    replicas: int = 1


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}: peak bf16, HBM capacity and bandwidth, ICI bandwidth a chip (1,600, 4,800 and
# 3,584 Gbps for v5e, v5p and v6e). ICI of v4: 6 links of 50 GB/s (Jouppi et al. 2023, arXiv:2304.01433, table 4). Where two
# versions of a page differ, the higher figure is here, so that the roofline stays an upper bound.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * 2**30, 1228e9, 300e9, 3, 2),
        Chip("v5e", 197e12, 16 * 2**30, 819e9, 200e9, 2),
        Chip("v5p", 459e12, 95 * 10**9, 2765e9, 600e9, 3),
        Chip("v6e", 918e12, 32 * 2**30, 1640e9, 448e9, 2),
    )
}
EXAMPLES = {2: "1x1, 2x2, 2x4, 4x4", 3: "2x2x1, 2x2x2, 2x2x4"}
LARGEST = {2: 256, 3: 4096}  # chips of a slice


class Topology(NamedTuple):
    """A slice: its chip and how many there are along each axis."""

    chip: Chip
    axes: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many chips it has."""
        return math.prod(self.axes)

    @property
    def replicas(self) -> int:
        """How many replicas train on it: chips, and on v4 cores."""
        return self.chips * self.chip.replicas

    @property
    def hbm_bytes(self) -> int:
        """What a replica has of its chip's HBM."""
        return self.chip.hbm_bytes // self.chip.replicas


def parse_topology(name: str) -> Topology:
    """Return the slice that `name` means, such as v5e:2x4. Raises ValueError that says which there are."""
    generation, _, shape = name.partition(":")
    if generation not in CHIPS:
        raise ValueError(f"there is no TPU {generation!r}; use {', '.join(CHIPS)}, for instance v5e:2x4")
    chip = CHIPS[generation]
    axes = tuple(int(axis) for axis in shape.split("x")) if re.fullmatch(r"\d{1,4}(x\d{1,4})*", shape) else ()
    powers = all(axis > 0 and axis & (axis - 1) == 0 for axis in axes)
    if len(axes) != chip.dimensions or not powers or math.prod(axes) > LARGEST[chip.dimensions]:
        known = EXAMPLES[chip.dimensions]
        raise ValueError(f"{generation} has no slice {shape!r}; use {chip.dimensions} axes, such as {known}")
    return Topology(chip, axes)


class Roofline(NamedTuple):
    """The least time of some work on a chip, and which of its peaks it meets there; seconds."""

    seconds: float
    bound_by: str


def roofline(topology: Topology, flops: float, hbm_bytes: float, reduced_bytes: float) -> Roofline:
    """Return the least time of work that a replica does: operations, HBM traffic, and bytes that are all-reduced.

    Nothing is faster than its slowest part, were all the others hidden behind it (Williams et al. 2009,
    doi:10.1145/1498765.1498785). A ring all-reduce sends 2·(N-1)/N times its bytes from each of N.
    """
    chip, replicas = topology.chip, topology.replicas
    share = 1 / chip.replicas
    parts = {
        "compute": flops / (share * chip.flops),
        "memory": hbm_bytes / (share * chip.hbm_bytes_per_second),
        "interconnect": 2 * (replicas - 1) / replicas * reduced_bytes / (share * chip.ici_bytes_per_second),
    }
    slowest = max(parts, key=lambda name: parts[name])
    return Roofline(parts[slowest], slowest)
