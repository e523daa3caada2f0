"""tpu_check without the TPU compiler: slices, roofline, HLO text, errors, the cache, the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from components.common.errors import ConfigError
from components.common.store import Folder
from components.tpu_check import compiler, run, subprocesses
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import CompilerMissingError, ProgramRefusedError
from components.tpu_check.hlo import HloModule, size
from components.tpu_check.report import rows, summarise
from components.tpu_check.slices import GENERATIONS, find_slice, roofline
from components.train.config import TrainConfig
from tests.support.command_line import run_process
from tests.support.local_runs import ROOT

CONFIG = TpuCheckConfig(topology="v5e:2x4", train=TrainConfig(global_batch_size=64, n_critic=3, precision="bfloat16"))

# Two nested loops as the compiler prints them: 5 trips, with 3 trips in each.
HLO = """\
HloModule call, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%inner_test (p: (s32[], bf16[8,128])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %three), direction=LT
}

%inner (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %q = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %a = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%q), index=1
  %c = bf16[8,128]{1,0:T(8,128)(2,1)} convolution(%a, %a), dim_labels=bf_io->bf
  %g = (f32[4]{0:T(128)}, f32[2,3]{1,0:T(8,128)}) all-reduce(%a, %c), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%q, %c)
}

%outer_test (p: (s32[], bf16[8,128])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %r = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  ROOT %low = pred[]{:T(512)} compare(%r, %five), direction=LT
}

%outer (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %s = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %w = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) while(%s), condition=%inner_test, body=%inner
  %f = f32[4,4]{1,0:T(4,128)} parameter(1)
  %d = f32[4,4]{1,0:T(4,128)} convolution(%f, %f), dim_labels=bf_io->bf
  %k = f32[2]{0:T(128)} all-reduce(%f), channel_id=2, replica_groups={{0,1}}, to_apply=%add
  ROOT %u = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%w, %w)
}

ENTRY %main (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %v = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  ROOT %z = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) while(%v), condition=%outer_test, body=%outer
}
"""
FIGURES = {
    "peak_hbm_bytes": 5_051_000_000, "program_bytes": 50_000_000, "rounds_a_call": 5, "flops_a_round": 1.97e12,
    "bytes_a_round": 1e10, "hbm_bytes_a_round": 8e9, "all_reduces_a_round": 4.0, "all_reduce_bytes_a_round": 1e6,
    "convolutions": 57, "bfloat16_convolutions": 57, "host_transfers_in_a_call": 0, "unknown_loops": 0,
    "gradients_summed_once": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("v7:2x2", "use GENERATION:TOPOLOGY, such as v5e:2x4, with GENERATION one of v2, v3, v4, v5e, v5p, v6e"),
        ("v5e", "'' is not a topology of TPU v5e; use v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4"),
        ("v4:2x2", "'2x2' is not a topology of TPU v4; use v4:2x2x1"),
        ("v5e:3x3", "'3x3' is not a topology of TPU v5e"),
        ("v3:2x2", "the TPU compiler compiles for v4, v5e, v5p or v6e only"),
    ],
)
def test_an_unknown_slice_is_refused_with_examples(name: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TpuCheckConfig(topology=name)
    assert sentence in str(caught.value)


def test_the_roofline_is_the_slowest_part() -> None:
    chips = find_slice("v5e:2x4")
    assert roofline(chips, 197e12, 0.0, 0.0) == (1.0, "compute")
    assert roofline(chips, 1e12, 819e9 * 2, 0.0) == (2.0, "memory")
    assert roofline(chips, 0.0, 0.0, 200e9) == (1.75, "interconnect")
    assert roofline(find_slice("v5e:1x1"), 1.0, 0.0, 200e9).bound_by == "compute", "one chip reduces with nobody"


def test_a_core_of_v4_is_a_replica_with_half_of_its_chip() -> None:
    slice_ = find_slice("v4:2x2x1")
    assert (slice_.chips, slice_.replicas, slice_.peaks.hbm_bytes) == (4, 8, 16 * 2**30)
    assert roofline(slice_, 275e12, 0.0, 0.0) == (2.0, "compute")
    assert find_slice("v5p:2x2x1").replicas == 4


def test_the_table_of_chips_is_the_published_one() -> None:
    peaks = {name: generation.peaks for name, generation in GENERATIONS.items() if generation.peaks}
    balance = {name: round(chip.flops / chip.hbm_bytes_per_second) for name, chip in peaks.items()}
    assert balance == {"v4": 224, "v5e": 241, "v5p": 166, "v6e": 560}


def test_loop_bodies_are_multiplied_by_their_trip_counts() -> None:
    program = HloModule(HLO)
    assert program.entry == "main"
    assert [(loop.inside, loop.body, loop.trips) for loop in program.loops] == [("outer", "inner", 3), ("main", "outer", 5)]
    assert (program.executions["main"], program.executions["outer"], program.executions["inner"]) == (1.0, 5.0, 15.0)
    assert program.all_reduces() == (15 + 5, 15 * (16 + 24) + 5 * 8)
    own = {"main": 100.0, "outer": 10.0, "inner": 1.0}  # XLA counts each loop body in a computation once
    once = {"main": 111.0, "outer": 11.0, "inner": 1.0}
    assert program.total(once.__getitem__) == own["main"] + 5 * (own["outer"] + 3 * own["inner"])


def test_an_unknown_trip_count_is_zero_and_counts_once() -> None:
    program = HloModule(HLO.replace("%five = s32[]{:T(128)} constant(5)", "%five = s32[]{:T(128)} parameter(1)"))
    assert [loop.trips for loop in program.loops] == [3, 0]
    assert program.executions["inner"] == 3.0


def test_convolutions_and_host_transfers_are_counted() -> None:
    assert HloModule(HLO).convolutions() == (2, 1)
    assert HloModule(HLO).host_transfers() == 0
    send = "  %h = (f32[2]{0:T(128)}, u32[], token[]) send(%f), channel_id=9, is_host_transfer=true\n"
    assert HloModule(HLO.replace("  %d = f32", send + "  %d = f32")).host_transfers() == 1
    before = HloModule(HLO.replace("  %v = (s32", "  %o = token[] outfeed(%v)\n  %v = (s32"))
    assert before.host_transfers() == 0, "a transfer before the loops does not slow a round"


def test_bytes_in_vmem_are_counted_separately() -> None:
    # In each of 15 executions, the convolution reads %a twice and the all-reduce once: 3 · 8 · 128 · 2 bytes.
    assert HloModule(HLO).vmem_bytes() == 15 * 3 * 8 * 128 * 2


def test_the_size_of_an_hlo_type() -> None:
    assert size("(f32[2,3]{1,0:T(8,128)}, bf16[5], pred[], s4[8])") == 24 + 10 + 1 + 4
    assert size("f32[2,3]{1,0:T(8,128)S(1)}", "S(1)") == 8 * 128 * 4, "padded to its tile"
    assert size("f32[2,3]{0,1:T(8,128)S(1)}", "S(1)") == 128 * 8 * 4
    assert size("f32[2,3]{1,0:T(8,128)}", "S(1)") == 0


def test_a_module_with_another_entry_has_one_entry() -> None:
    module = compiler.with_entry(HLO, "outer")
    assert module.count("ENTRY") == 1
    assert "\nENTRY %outer (" in module
    assert "\n%main (" in module


def test_program_figures_are_those_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(
        argument_size_in_bytes=3_000_000_000,
        output_size_in_bytes=4_000_000,
        alias_size_in_bytes=3_000_000,
        temp_size_in_bytes=2_000_000_000,
        generated_code_size_in_bytes=50_000_000,
    )
    compiled = SimpleNamespace(get_compiled_memory_stats=lambda: memory, cost_analysis=lambda: {"bytes accessed": 2 * 1.11e9})
    # Each computation costs 1, 10 or 100 of its own; XLA counts each loop body in it once.
    xla = {"main": 111.0, "outer": 11.0, "inner": 1.0}
    monkeypatch.setattr(compiler, "xla_costs", lambda text: lambda name, kind: 1e7 * xla[name])
    figures = compiler.program_figures(compiled, HLO, rounds=5)
    assert figures["peak_hbm_bytes"] == 5_051_000_000
    assert figures["flops_a_round"] == 1e7 * (100 + 5 * (10 + 3 * 1)) / 5
    assert figures["bytes_a_round"] == 2 * figures["flops_a_round"], "scaled by the padding of the executable"
    assert figures["hbm_bytes_a_round"] == figures["bytes_a_round"] - 3 * 3 * 8 * 128 * 2
    assert (figures["all_reduces_a_round"], figures["all_reduce_bytes_a_round"]) == (20 / 5, (15 * 40 + 5 * 8) / 5)
    assert (figures["convolutions"], figures["bfloat16_convolutions"], figures["unknown_loops"]) == (2, 1, 0)


def test_the_report_adds_the_roofline_and_the_cost_of_the_check() -> None:
    summary = summarise(CONFIG, FIGURES, (subprocesses.Cost(3.0, 10), subprocesses.Cost(60.0, 30)))
    assert summary.model_dump(include=FIGURES.keys()) == {k: v for k, v in FIGURES.items() if k != "unknown_loops"}
    assert (summary.all_reduces_a_round, summary.updates_a_round) == (4.0, 4)
    assert (summary.roofline_seconds_a_round, summary.bound_by) == (0.01, "compute")
    assert summary.images_per_second_at_most == pytest.approx(3 * 64 / 0.01)
    assert (summary.check_seconds, summary.check_peak_memory_bytes) == (63.0, 30)
    assert summary.notes == ()
    shown = dict(rows(summary))
    assert shown["all-reduces a round"] == "4 for 4 updates, 1.0 MB a chip; each of 16 gradients is summed once"
    assert "upper bound" in shown["images/s"]


def test_findings_become_notes() -> None:
    odd = FIGURES | {"all_reduces_a_round": 5.0, "host_transfers_in_a_call": 2, "bfloat16_convolutions": 50, "unknown_loops": 1}
    notes = summarise(CONFIG, odd, (subprocesses.Cost(1.0, 1),)).notes
    assert notes == (
        "5 all-reduces for 4 updates a round: some gradients are summed separately.",
        "2 transfers between host and chip inside a call; all chips wait for each.",
        "7 of 57 convolutions are not in bfloat16.",
        "1 loops have an unknown trip count; each is counted once.",
    )
    labels = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"conditional": True})})
    assert "with its label vectors should not be" in summarise(labels, odd, (subprocesses.Cost(1.0, 1),)).notes[2]


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n\nTotal hbm usage >= 20.75G:",
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO temporaries"
        " (20.50G) exceeds available HBM (15.75G). HLO module: a_inference_call_2324__.4707.",
    ],
)
def test_an_out_of_memory_error_says_how_much_is_missing_and_what_to_lower(message: str) -> None:
    assert str(compiler.refusal(message, CONFIG)) == (
        "The program needs 22.0 GB of HBM and a v5e chip has 16.9 GB: 5.1 GB too much. Lower train.global_batch_size"
        " (now 64, 8 images a chip) or the channels, or use a larger slice."
    )


def test_any_other_refusal_is_the_first_line_of_the_compilers_message() -> None:
    error = compiler.refusal("UNIMPLEMENTED: no such thing on TPU\nstack", CONFIG)
    assert str(error) == "The compiler for v5e:2x4 refuses the program: UNIMPLEMENTED: no such thing on TPU."


@pytest.mark.parametrize(("package", "version", "found"), [("libtpu", "", "libtpu missing"), ("jaxlib", "9.9", "jaxlib 9.9")])
def test_a_missing_or_another_compiler_is_an_error_that_says_what_to_install(
    package: str, version: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {**compiler.EXPECTED, "tensorflow": "1", "keras": "1", package: version}
    monkeypatch.setattr(compiler, "_version", installed.__getitem__)
    with pytest.raises(CompilerMissingError) as caught:
        compiler.check_versions()
    assert str(caught.value) == (
        f"tpu-check needs jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.52; found here: {found}. "
        'pip install "wgan-tpu-pipeline[tpu-check]", or leave the check out of a pipeline: --set deploy.tpu_check=false.'
    )


def test_plain_tensorflow_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_version", lambda name: "" if name == "tensorflow" else compiler.EXPECTED.get(name, "1"))
    with pytest.raises(CompilerMissingError, match=r"needs plain tensorflow, which is not installed here; tensorflow-tpu"):
        compiler.check_versions()


def test_the_extra_pins_the_expected_versions() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert all(text.count(f'"{name}=={version};') == 2 for name, version in compiler.EXPECTED.items())


def test_a_batch_that_does_not_divide_by_the_replicas_is_refused_first(tmp_path: Path) -> None:
    train = CONFIG.train.model_copy(update={"global_batch_size": 100})
    with pytest.raises(ConfigError) as caught:
        run.check(CONFIG.model_copy(update={"train": train}), Folder(tmp_path))
    assert str(caught.value) == "On v5e:2x4, train.global_batch_size = 100 does not divide by 8 replicas; use 96 or 104."


def test_a_repeated_check_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "check_versions", dict)
    done: list[TpuCheckConfig] = []

    def once(config: TpuCheckConfig, _: Path) -> object:
        done.append(config)
        return summarise(config, FIGURES, (subprocesses.Cost(1.0, 1),))

    monkeypatch.setattr(run, "_compile", once)
    assert not run.check(CONFIG, Folder(tmp_path)).cached
    assert run.check(CONFIG, Folder(tmp_path)).cached
    assert not run.check(CONFIG.model_copy(update={"topology": "v5e:1x1"}), Folder(tmp_path)).cached
    monkeypatch.setattr(run, "code_digest", lambda _: "other code")
    assert not run.check(CONFIG, Folder(tmp_path)).cached
    assert [config.train.devices for config in done] == ["tpu"] * 3, "a check is always for a TPU"


def test_a_crash_of_a_stage_is_an_error_with_its_last_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dies.py").write_text("import os, sys\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with pytest.raises(
        ProgramRefusedError,
        match=r"dies was killed by SIGKILL; its last output was: last words\. The usual reason is too little",
    ):
        subprocesses.run_subprocess("dies", CONFIG, tmp_path, {})


def test_an_error_of_a_stage_is_raised_in_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "refuses.py").write_text(
        "from components.tpu_check.subprocesses import main\nfrom components.tpu_check.errors import ProgramRefusedError\n"
        "def work(config, folder):\n    raise ProgramRefusedError(f'{config.topology} will not do.', 'Take another.')\n"
        "raise SystemExit(main(work))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with pytest.raises(ProgramRefusedError, match=r"^v5e:2x4 will not do\. Take another\.$"):
        subprocesses.run_subprocess("refuses", CONFIG, tmp_path, {})


def test_the_cost_of_a_stage_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eats.py").write_text("import time\nmuch = b'x' * 300_000_000\ntime.sleep(0.2)\n")
    (tmp_path / "measures.py").write_text(
        "import sys; from pathlib import Path; from components.tpu_check import config, subprocesses\n"
        "print(*subprocesses.run_subprocess('eats', config.TpuCheckConfig(), Path(sys.argv[1]), {}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    # Started from a small process: until exec, Linux counts the parent's memory as the child's.
    measured = subprocess.run([sys.executable, "-m", "measures", str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, peak_memory_bytes = map(float, measured.stdout.split())
    assert seconds > 0.2
    assert 3e8 < peak_memory_bytes < 5e8


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--topology", "v5e:3x1"], "'3x1' is not a topology of TPU v5e; use v5e:1x1, v5e:2x2, v5e:2x4"),
        (["--topology", "v5e:2x4", "--set", "train.global_batch_size=12"], "does not divide by 8 replicas; use 8 or 16."),
    ],
)
def test_the_command_refuses_bad_arguments_with_exit_code_2(words: list[str], sentence: str) -> None:
    done = run_process("tpu-check", "configs/quickstart.toml", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
