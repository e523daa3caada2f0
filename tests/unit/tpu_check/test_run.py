"""tpu_check without its compiler: slices, roofline, HLO text, sentences, the cache, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.common.errors import ConfigError
from components.tpu_check import child, compiler, run
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import CompilerMissingError, ProgramRefusedError
from components.tpu_check.program import Program, size
from components.tpu_check.report import rows, summarise
from components.tpu_check.slices import GENERATIONS, find_slice, roofline
from components.train.config import TrainConfig

ROOT = Path(__file__).parents[3]
CONFIG = TpuCheckConfig(topology="v5e:2x4", train=TrainConfig(global_batch_size=64, n_critic=3, precision="bfloat16"))

# Two loops, one in the other, as the compiler prints them: 5 turns of 3 turns.
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
    "argument_bytes": 3e9, "output_bytes": 1e6, "temporary_bytes": 2e9, "program_bytes": 5e7, "flops": 5 * 1.97e12,
    "bytes_accessed": 5 * 1e10, "on_chip_bytes": 5 * 2e9, "all_reduces": 20.0, "all_reduce_bytes": 5 * 1e6,
    "convolutions": 57, "bfloat16_convolutions": 57, "host_transfers": 0, "loops": 2, "unknown_loops": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "chips"), [("v5e:1x1", 1), ("v5e:2x4", 8), ("v4:2x2x1", 4), ("v5p:2x2x2", 8), ("v6e:4x4", 16)]
)
def test_a_slice_has_its_chips(name: str, chips: int) -> None:
    assert find_slice(name).chips == chips


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("v7:2x2", "use GENERATION:TOPOLOGY, such as v5e:2x4, with GENERATION one of v2, v3, v4, v5e, v5p, v6e"),
        ("v5e", "'' is not a topology of TPU v5e; use v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4"),
        ("v5e:2x2x1", "'2x2x1' is not a topology of TPU v5e; use v5e:1x1"),
        ("v4:2x2", "'2x2' is not a topology of TPU v4; use v4:2x2x1"),
        ("v5e:3x3", "'3x3' is not a topology of TPU v5e"),
        ("v5e:0x4", "'0x4' is not a topology of TPU v5e"),
        ("v5e:32x32", "'32x32' is not a topology of TPU v5e"),
        ("v3:2x2", "the TPU compiler compiles for v4, v5e, v5p or v6e only"),
    ],
)
def test_a_slice_that_does_not_exist_is_refused_with_those_that_do(name: str, sentence: str) -> None:
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


def test_loops_are_counted_as_often_as_they_turn() -> None:
    program = Program(HLO)
    assert program.entry == "main"
    assert [(loop.inside, loop.body, loop.turns) for loop in program.loops] == [("outer", "inner", 3), ("main", "outer", 5)]
    assert (program.times["main"], program.times["outer"], program.times["inner"]) == (1.0, 5.0, 15.0)
    assert program.reduced() == (15 + 5, 15 * (16 + 24) + 5 * 8)
    own = {"main": 100.0, "outer": 10.0, "inner": 1.0}  # XLA's: a computation with each body in it once
    once = {"main": 111.0, "outer": 11.0, "inner": 1.0}
    assert program.full(once.__getitem__) == own["main"] + 5 * (own["outer"] + 3 * own["inner"])


def test_a_loop_whose_turns_are_not_known_is_said_to_be() -> None:
    program = Program(HLO.replace("%five = s32[]{:T(128)} constant(5)", "%five = s32[]{:T(128)} parameter(1)"))
    assert [loop.turns for loop in program.loops] == [3, 0]
    assert program.times["inner"] == 3.0


def test_convolutions_and_host_transfers_are_found() -> None:
    assert Program(HLO).convolutions() == (2, 1)
    assert Program(HLO).host_transfers() == 0
    send = "  %h = (f32[2]{0:T(128)}, u32[], token[]) send(%f), channel_id=9, is_host_transfer=true\n"
    assert Program(HLO.replace("  %d = f32", send + "  %d = f32")).host_transfers() == 1
    before = Program(HLO.replace("  %v = (s32", "  %o = token[] outfeed(%v)\n  %v = (s32"))
    assert before.host_transfers() == 0, "one before the loops holds up nothing"


def test_bytes_in_the_chips_own_memory_are_told_apart() -> None:
    # %a is read twice by the convolution and once by the all-reduce, 15 times: 3 · 8 · 128 · 2 bytes.
    assert Program(HLO).on_chip_bytes() == 15 * 3 * 8 * 128 * 2


def test_the_size_of_a_type() -> None:
    assert size("(f32[2,3]{1,0:T(8,128)}, bf16[5], pred[], s4[8])") == 24 + 10 + 1 + 4
    assert size("f32[2,3]{1,0:T(8,128)S(1)}", "S(1)") == 8 * 128 * 4, "padded to its tile"
    assert size("f32[2,3]{0,1:T(8,128)S(1)}", "S(1)") == 128 * 8 * 4
    assert size("f32[2,3]{1,0:T(8,128)}", "S(1)") == 0


def test_another_entry_makes_a_module_of_its_own() -> None:
    module = compiler.entered_at(HLO, "outer")
    assert module.count("ENTRY") == 1
    assert "\nENTRY %outer (" in module
    assert "\n%main (" in module


def test_the_report_is_of_one_round() -> None:
    summary = summarise(CONFIG, 5, FIGURES, (child.Cost(3.0, 10), child.Cost(60.0, 30)))
    assert (summary.flops_a_round, summary.bytes_a_round, summary.hbm_bytes_a_round) == (1.97e12, 1e10, 8e9)
    assert (summary.all_reduces_a_round, summary.updates_a_round) == (4.0, 4)
    assert summary.peak_hbm_bytes == 5_051_000_000
    assert (summary.roofline_seconds_a_round, summary.bound_by) == (0.01, "compute")
    assert summary.images_per_second_at_most == pytest.approx(3 * 64 / 0.01)
    assert (summary.check_seconds, summary.check_peak_memory_bytes) == (63.0, 30)
    assert summary.notes == ()
    shown = dict(rows(summary))
    assert shown["all-reduces a round"] == "4 for 4 updates, 1.0 MB a chip"
    assert "upper bound" in shown["images/s"]


def test_what_is_not_as_it_should_be_gets_a_note() -> None:
    odd = FIGURES | {"all_reduces": 25.0, "host_transfers": 2, "bfloat16_convolutions": 50, "unknown_loops": 1}
    notes = summarise(CONFIG, 5, odd, (child.Cost(1.0, 1),)).notes
    assert notes == (
        "5 all-reduces for 4 updates a round: the gradients of an update are not summed at once.",
        "2 transfers between host and chip inside a call: each holds up all chips.",
        "7 of 57 convolutions are not in bfloat16.",
        "How often 1 loops turn is not known; each is counted once.",
    )


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n\nTotal hbm usage >= 20.75G:",
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO temporaries"
        " (20.50G) exceeds available HBM (15.75G). HLO module: a_inference_call_2324__.4707.",
    ],
)
def test_out_of_memory_says_by_how_much_and_what_to_lower(message: str) -> None:
    assert str(compiler.refusal(message, CONFIG)) == (
        "The program needs 22.0 GB of HBM and a v5e chip has 16.9 GB: 5.1 GB too much. Lower train.global_batch_size"
        " (now 64, 8 images a chip) or the channels, or take a larger slice."
    )


def test_another_refusal_is_the_compilers_own_first_line() -> None:
    error = compiler.refusal("UNIMPLEMENTED: no such thing on TPU\nstack", CONFIG)
    assert str(error) == "The compiler for v5e:2x4 refuses the program: UNIMPLEMENTED: no such thing on TPU."


def test_without_the_compiler_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_version", lambda name: None if name == "libtpu" else compiler.EXPECTED[name])
    with pytest.raises(CompilerMissingError) as caught:
        compiler.check_versions()
    assert str(caught.value) == (
        'The TPU compiler is not installed here (libtpu missing). pip install "wgan-tpu-pipeline[tpu-check]",'
        " or in a pipeline --set deploy.tpu_check=false to go without."
    )


def test_another_version_of_the_compiler_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_version", lambda name: "9.9" if name == "jaxlib" else compiler.EXPECTED[name])
    with pytest.raises(
        CompilerMissingError, match=r"written for jax==0\.10\.2 jaxlib==0\.10\.2 libtpu==0\.0\.52; here is jaxlib 9\.9\."
    ):
        compiler.check_versions()


def test_the_extra_asks_for_the_versions_that_the_compiler_expects() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert all(text.count(f'"{name}=={version};') == 2 for name, version in compiler.EXPECTED.items())


def test_a_batch_uneven_over_the_chips_is_refused_before_anything_starts(tmp_path: Path) -> None:
    train = CONFIG.train.model_copy(update={"global_batch_size": 100})
    with pytest.raises(ConfigError) as caught:
        run.check(CONFIG.model_copy(update={"train": train}), tmp_path)
    assert str(caught.value) == "On v5e:2x4, train.global_batch_size = 100 does not divide by 8 replicas; use 96 or 104."


def test_what_was_checked_before_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "check_versions", lambda: None)
    monkeypatch.setattr(run, "_versions", dict)
    done: list[TpuCheckConfig] = []

    def once(config: TpuCheckConfig, _: Path) -> object:
        done.append(config)
        return summarise(config, 5, FIGURES, (child.Cost(1.0, 1),))

    monkeypatch.setattr(run, "_checked", once)
    assert not run.check(CONFIG, tmp_path).cached
    assert run.check(CONFIG, tmp_path).cached
    assert not run.check(CONFIG.model_copy(update={"topology": "v5e:1x1"}), tmp_path).cached
    monkeypatch.setattr(run, "code_digest", lambda _: "other code")
    assert not run.check(CONFIG, tmp_path).cached
    assert [config.train.devices for config in done] == ["tpu"] * 3, "whatever the config trains on here"


def test_a_part_that_dies_is_a_sentence_and_not_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dies.py").write_text("import os, sys\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        ProgramRefusedError, match=r"dies was killed by SIGKILL; it last said: last words\. Often that is memory"
    ):
        child.run_child("dies", CONFIG, tmp_path, {})


def test_a_part_hands_on_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "refuses.py").write_text(
        "from components.tpu_check.child import main\nfrom components.tpu_check.errors import ProgramRefusedError\n"
        "def work(config, folder):\n    raise ProgramRefusedError(f'{config.topology} will not do.', 'Take another.')\n"
        "raise SystemExit(main(work))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ProgramRefusedError, match=r"^v5e:2x4 will not do\. Take another\.$"):
        child.run_child("refuses", CONFIG, tmp_path, {})


def test_a_part_tells_what_it_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eats.py").write_text("import time\nmuch = b'x' * 300_000_000\ntime.sleep(0.2)\n")
    (tmp_path / "asks.py").write_text(
        "import sys; from pathlib import Path; from components.tpu_check import child, config\n"
        "print(*child.run_child('eats', config.TpuCheckConfig(), Path(sys.argv[1]), {}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    # From a small process: Linux counts the memory of the one that starts another as the other's until it has begun.
    asked = subprocess.run([sys.executable, "-m", "asks", str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, peak_memory_bytes = map(float, asked.stdout.split())
    assert seconds > 0.2
    assert 3e8 < peak_memory_bytes < 5e8


def wgan(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipeline", *words], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--topology", "v9:1x1"], "--topology = 'v9:1x1': use GENERATION:TOPOLOGY, such as v5e:2x4"),
        (["--topology", "v5e:3x1"], "'3x1' is not a topology of TPU v5e; use v5e:1x1, v5e:2x2, v5e:2x4"),
        (["--topology", "v5e:2x4", "--set", "train.global_batch_size=12"], "does not divide by 8 replicas; use 8 or 16."),
    ],
)
def test_the_command_refuses_what_does_not_fit_together_with_exit_code_2(words: list[str], sentence: str) -> None:
    done = wgan("tpu-check", "configs/quickstart.toml", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_imports_neither_tensorflow_nor_jax() -> None:
    script = (
        "import sys, json\nimport pipeline.commands.tpu_check, pipeline.cli\n"
        "print(json.dumps(sorted({'tensorflow', 'keras', 'jax', 'jaxlib', 'kfp'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(done.stdout) == []
