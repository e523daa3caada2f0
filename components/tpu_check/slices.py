"""The table of TPU slices: what each generation offers, what its chips can do at most, and which slices exist.

Sources: docs/tpu.md. Imports no TensorFlow, since the command line reads it.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Peaks(NamedTuple):
    """Published peaks of one chip: bfloat16 operations a second, bytes of HBM, bytes a second of HBM and of ICI (one way)."""

    flops: float
    hbm_bytes: int
    hbm_bytes_per_second: float
    ici_bytes_per_second: float


class Generation(NamedTuple):
    """What all TPUs of a generation share.

    `replicas_per_chip` is the most that TPUStrategy may make of a chip: a batch that divides by them divides by fewer too.
    `peaks` is None where the TPU compiler no longer compiles for the generation.
    """

    name: str
    replicas_per_chip: int
    tensorflow: bool  # whether Google supports TensorFlow on it
    topologies: str
    peaks: Peaks | None = None


# Peaks: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}: bf16 operations, HBM capacity and bandwidth, ICI bandwidth of a chip
# (1,600, 4,800 and 3,584 Gbps for v5e, v5p and v6e). ICI of v4: 6 links of 50 GB/s (Jouppi et al. 2023, arXiv:2304.01433,
# table 4).
# Where two versions of a page differ, the table has the higher figure, so that the roofline stays an upper bound.
# Replicas of v4: libtpu lists its two cores as two devices; no source says whether TPUStrategy joins them (megacore).
_SQUARE = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBE = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8"
GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation("v2", 2, True, "2x2 4x4 8x8 8x16 16x16"),
        Generation("v3", 2, True, "2x2 4x4 4x8 8x8 8x16 16x16 16x32 32x32"),
        Generation("v4", 2, True, _CUBE, Peaks(275e12, 32 * 2**30, 1228e9, 300e9)),
        Generation("v5e", 1, True, _SQUARE, Peaks(197e12, 16 * 2**30, 819e9, 200e9)),
        Generation("v5p", 1, True, _CUBE, Peaks(459e12, 95 * 10**9, 2765e9, 600e9)),
        Generation("v6e", 1, False, _SQUARE, Peaks(918e12, 32 * 2**30, 1640e9, 448e9)),
    )
}


class TpuSlice(NamedTuple):
    """Chips that work together; `topology` is how many there are along each axis, such as 2x4."""

    generation: Generation
    topology: str

    @property
    def name(self) -> str:
        """GENERATION:TOPOLOGY, as in a config."""
        return f"{self.generation.name}:{self.topology}"

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(int(side) for side in self.topology.split("x"))

    @property
    def replicas(self) -> int:
        """The number of replicas that train on it: chips, or cores up to v4."""
        return self.chips * self.generation.replicas_per_chip

    @property
    def peaks(self) -> Peaks:
        """The peaks of one replica, for a generation that has them."""
        peaks, share = self.generation.peaks, self.generation.replicas_per_chip
        assert peaks is not None
        return Peaks(
            peaks.flops / share,
            peaks.hbm_bytes // share,
            peaks.hbm_bytes_per_second / share,
            peaks.ici_bytes_per_second / share,
        )


SLICES = {
    piece.name: piece
    for generation in GENERATIONS.values()
    for piece in (TpuSlice(generation, topology) for topology in generation.topologies.split())
}


def find_slice(name: str) -> TpuSlice:
    """Return the slice of a name such as v5e:2x4. Raises ValueError that lists the slices of the generation."""
    generation, _, topology = name.partition(":")
    if generation not in GENERATIONS:
        raise ValueError(f"use GENERATION:TOPOLOGY, such as v5e:2x4, with GENERATION one of {', '.join(GENERATIONS)}")
    if name not in SLICES:
        names = [piece.name for piece in SLICES.values() if piece.generation.name == generation]
        raise ValueError(f"{topology!r} is not a topology of TPU {generation}; use {join_with_or(names)}")
    return SLICES[name]


def join_with_or(names: list[str]) -> str:
    """Return "a, b or c"."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class Roofline(NamedTuple):
    """The least time that some work takes on a chip, in seconds, and the peak that limits it."""

    seconds: float
    bound_by: str


def roofline(piece: TpuSlice, flops: float, hbm_bytes: float, reduced_bytes: float) -> Roofline:
    """Return the least time of one replica's work: operations, HBM traffic, and bytes that are all-reduced.

    Work takes at least as long as its slowest part, even if all others overlap with it (Williams et al. 2009,
    doi:10.1145/1498765.1498785). A ring all-reduce sends 2·(N-1)/N times its bytes from each of N replicas.
    """
    peaks, replicas = piece.peaks, piece.replicas
    seconds = {
        "compute": flops / peaks.flops,
        "memory": hbm_bytes / peaks.hbm_bytes_per_second,
        "interconnect": 2 * (replicas - 1) / replicas * reduced_bytes / peaks.ici_bytes_per_second,
    }
    slowest = max(seconds, key=lambda name: seconds[name])
    return Roofline(seconds[slowest], slowest)
