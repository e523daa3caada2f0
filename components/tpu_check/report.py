"""The report of a check: the figures of one round, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.common.section import Summary
from components.tpu_check import parity
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.slices import roofline
from components.tpu_check.subprocesses import Cost


class TpuCheckSummary(Summary):
    """A program that compiled. Sizes are bytes, costs those of one round; all are for one replica: a chip, on v4 a core.

    `bytes_a_round` is XLA's count, which includes the chip's own memory (VMEM); `hbm_bytes_a_round` excludes it, so that
    `images_per_second_at_most` (images that the critic sees, on all chips) is an upper bound, not a forecast.
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
    gradients_summed_once: int
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
    executed: tuple[parity.Execution, ...] = ()


def summarise(config: TpuCheckConfig, figures: Mapping[str, Any], costs: tuple[Cost, ...]) -> TpuCheckSummary:
    """Return the report of a program, from compiler.program_figures and the costs of the stages of the check."""
    flops, moved = figures["flops_a_round"], figures["bytes_a_round"]
    least = roofline(config.slice, flops, figures["hbm_bytes_a_round"], figures["all_reduce_bytes_a_round"])
    return TpuCheckSummary(
        topology=config.topology,
        chips=config.slice.chips,
        replicas=config.slice.replicas,
        compiled=True,
        hbm_bytes=config.slice.peaks.hbm_bytes,
        updates_a_round=config.train.n_critic + 1,
        flops_a_byte=flops / moved,
        roofline_seconds_a_round=least.seconds,
        bound_by=least.bound_by,
        images_per_second_at_most=config.train.n_critic * config.train.global_batch_size / least.seconds,
        check_seconds=round(sum(cost.seconds for cost in costs), 1),
        check_peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        cached=False,
        notes=_notes(config, figures),
        **{name: value for name, value in figures.items() if name != "unknown_loops"},
    )


def _notes(config: TpuCheckConfig, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence for each finding that slows the training or makes these figures less exact."""
    updates, all_reduces = config.train.n_critic + 1, figures["all_reduces_a_round"]
    transfers, unknown = figures["host_transfers_in_a_call"], figures["unknown_loops"]
    convolutions = figures["convolutions"]
    in_float32 = convolutions - figures["bfloat16_convolutions"]
    notes = []
    if config.slice.replicas > 1 and all_reduces > updates:
        notes.append(f"{all_reduces:g} all-reduces for {updates} updates a round: some gradients are summed separately.")
    if transfers:
        notes.append(f"{transfers} transfers between host and chip inside a call; all chips wait for each.")
    if config.train.precision != "float32" and in_float32:
        labels = " Those of a conditional critic with its label vectors should not be." if config.train.conditional else ""
        notes.append(f"{in_float32} of {convolutions} convolutions are not in bfloat16.{labels}")
    if unknown:
        notes.append(f"{unknown} loops have an unknown trip count; each is counted once.")
    return tuple(notes)


def rows(summary: TpuCheckSummary) -> list[tuple[str, str]]:
    """Return the report as rows of (name, value) to print."""
    unit = "chip" if summary.replicas == summary.chips else "core"
    share = summary.peak_hbm_bytes / summary.hbm_bytes
    moved, hbm = summary.bytes_a_round / 1e9, summary.hbm_bytes_a_round / 1e9
    reduces = f"{summary.all_reduces_a_round:g} for {summary.updates_a_round} updates"
    once = f"; each of {summary.gradients_summed_once} gradients is summed once" if summary.replicas > 1 else ""
    took = f"{summary.check_seconds:.0f} s, {summary.check_peak_memory_bytes / 1e9:.1f} GB of memory"
    return [
        ("compiled", f"for {summary.topology}, {summary.chips} chip{'s' * (summary.chips > 1)}"),
        (f"peak HBM a {unit}", f"{summary.peak_hbm_bytes / 1e9:.3g} GB of {summary.hbm_bytes / 1e9:.1f} GB ({share:.0%})"),
        ("program", f"{summary.program_bytes / 1e6:.1f} MB, {summary.rounds_a_call} rounds a call"),
        ("operations a round", f"{summary.flops_a_round / 1e12:.3g} TFLOP a {unit}"),
        ("bytes a round", f"{moved:.3g} GB a {unit}, at least {hbm:.3g} GB of them in HBM"),
        ("intensity", f"{summary.flops_a_byte:.0f} FLOP a byte"),
        ("all-reduces a round", f"{reduces}, {summary.all_reduce_bytes_a_round / 1e6:.1f} MB a {unit}{once}"),
        ("convolutions", f"{summary.convolutions}, {summary.bfloat16_convolutions} in bfloat16"),
        ("host transfers", f"{summary.host_transfers_in_a_call} inside a call"),
        ("least time a round", f"{summary.roofline_seconds_a_round * 1e3:.3g} ms, bound by {summary.bound_by}"),
        ("images/s", f"at most {summary.images_per_second_at_most:,.0f} (an upper bound, not a forecast)"),
        *(row for execution in summary.executed for row in parity.rows(execution)),
        ("this check", took + (", from the cache" if summary.cached else "")),
    ]
