"""What a check found, in numbers that are a round's, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping

from components.common.section import Summary
from components.tpu_check.child import Cost
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.slices import roofline


class TpuCheckSummary(Summary):
    """A program that compiled: sizes in bytes and costs of one round, all for one replica: a chip, on v4 a core.

    `bytes_a_round` are those that XLA counts, what it keeps in the chip's own memory included; `hbm_bytes_a_round` without
    that, so that `images_per_second_at_most` (images that the critic sees, on all chips) is an upper bound and not a forecast.
    """

    topology: str
    chips: int
    replicas: int
    compiled: bool
    peak_hbm_bytes: int
    hbm_bytes: int
    program_bytes: int
    rounds_a_call: int
    flops_a_round: float
    bytes_a_round: float
    hbm_bytes_a_round: float
    updates_a_round: int
    all_reduces_a_round: float
    all_reduce_bytes_a_round: float
    convolutions: int
    bfloat16_convolutions: int
    host_transfers_in_a_call: int
    flops_a_byte: float
    roofline_seconds_a_round: float
    bound_by: str
    images_per_second_at_most: float
    check_seconds: float
    check_peak_memory_bytes: int
    cached: bool
    notes: tuple[str, ...]


def summarise(config: TpuCheckConfig, rounds: int, figures: Mapping[str, float], costs: tuple[Cost, ...]) -> TpuCheckSummary:
    """Return the report of a program of `rounds` rounds, from the compiler's figures of one run of it."""
    flops, moved = figures["flops"] / rounds, figures["bytes_accessed"] / rounds
    hbm = max(0.0, moved - figures["on_chip_bytes"] / rounds)
    reduced = figures["all_reduce_bytes"] / rounds
    least = roofline(config.slice, flops, hbm, reduced)
    images = config.train.n_critic * config.train.global_batch_size
    peak = sum(figures[f"{part}_bytes"] for part in ("argument", "output", "temporary", "program"))
    return TpuCheckSummary(
        topology=config.topology,
        chips=config.slice.chips,
        replicas=config.slice.replicas,
        compiled=True,
        peak_hbm_bytes=int(peak),
        hbm_bytes=config.slice.peaks.hbm_bytes,
        program_bytes=int(figures["program_bytes"]),
        rounds_a_call=rounds,
        flops_a_round=flops,
        bytes_a_round=moved,
        hbm_bytes_a_round=hbm,
        updates_a_round=config.train.n_critic + 1,
        all_reduces_a_round=figures["all_reduces"] / rounds,
        all_reduce_bytes_a_round=reduced,
        convolutions=int(figures["convolutions"]),
        bfloat16_convolutions=int(figures["bfloat16_convolutions"]),
        host_transfers_in_a_call=int(figures["host_transfers"]),
        flops_a_byte=flops / moved,
        roofline_seconds_a_round=least.seconds,
        bound_by=least.bound_by,
        images_per_second_at_most=images / least.seconds,
        check_seconds=round(sum(cost.seconds for cost in costs), 1),
        check_peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        cached=False,
        notes=_notes(config, figures, rounds),
    )


def _notes(config: TpuCheckConfig, figures: Mapping[str, float], rounds: int) -> tuple[str, ...]:
    """Return a sentence for each thing that is not as it should be, but does not stop the training."""
    updates, reduces = config.train.n_critic + 1, figures["all_reduces"] / rounds
    found = []
    if config.slice.replicas > 1 and reduces > updates:
        found.append(
            f"{reduces:g} all-reduces for {updates} updates a round: the gradients of an update are not summed at once."
        )
    if figures["host_transfers"]:
        found.append(f"{figures['host_transfers']:g} transfers between host and chip inside a call: each holds up all chips.")
    other = figures["convolutions"] - figures["bfloat16_convolutions"]
    if config.train.precision != "float32" and other:
        found.append(f"{other:g} of {figures['convolutions']:g} convolutions are not in bfloat16.")
    if figures["unknown_loops"]:
        found.append(f"How often {figures['unknown_loops']:g} loops turn is not known; each is counted once.")
    return tuple(found)


def rows(summary: TpuCheckSummary) -> list[tuple[str, str]]:
    """Return the report as (what, value) for people."""
    unit = "chip" if summary.replicas == summary.chips else "core"
    share = summary.peak_hbm_bytes / summary.hbm_bytes
    moved, hbm = summary.bytes_a_round / 1e9, summary.hbm_bytes_a_round / 1e9
    reduces = f"{summary.all_reduces_a_round:g} for {summary.updates_a_round} updates"
    took = f"{summary.check_seconds:.0f} s, {summary.check_peak_memory_bytes / 1e9:.1f} GB of memory"
    return [
        ("compiled", f"for {summary.topology}, {summary.chips} chip{'s' * (summary.chips > 1)}"),
        (f"peak HBM a {unit}", f"{summary.peak_hbm_bytes / 1e9:.3g} GB of {summary.hbm_bytes / 1e9:.1f} GB ({share:.0%})"),
        ("program", f"{summary.program_bytes / 1e6:.1f} MB, a call of {summary.rounds_a_call} rounds"),
        ("operations a round", f"{summary.flops_a_round / 1e12:.3g} TFLOP a {unit}"),
        ("bytes a round", f"{moved:.3g} GB a {unit}, at least {hbm:.3g} GB of them in HBM"),
        ("intensity", f"{summary.flops_a_byte:.0f} FLOP a byte"),
        ("all-reduces a round", f"{reduces}, {summary.all_reduce_bytes_a_round / 1e6:.1f} MB a {unit}"),
        ("convolutions", f"{summary.convolutions}, {summary.bfloat16_convolutions} in bfloat16"),
        ("host transfers", f"{summary.host_transfers_in_a_call} inside a call"),
        ("least time a round", f"{summary.roofline_seconds_a_round * 1e3:.3g} ms, bound by {summary.bound_by}"),
        ("images/s", f"at most {summary.images_per_second_at_most:,.0f} (an upper bound, not a forecast)"),
        ("this check", took + (", from the cache" if summary.cached else "")),
    ]
