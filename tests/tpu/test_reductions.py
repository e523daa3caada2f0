"""Programs whose updates are not reduced over the replicas, or twice: small ones by hand, and faults planted into the step."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.tpu_check import compiler, lowering
from components.tpu_check.errors import ProgramRefusedError
from components.tpu_check.reductions import EQUAL, FREE, VARIES, Reductions, check_reductions, find_reductions
from components.tpu_check.subprocesses import run_subprocess
from components.train import noise, step
from components.train.config import TrainConfig
from tests.tpu.test_lowering import small

pytestmark = pytest.mark.usefixtures("tpu_compiler")
GROUP = "dense<[[0, 1, 2, 3]]> : tensor<1x4xi64>"
ALL_REDUCE = re.compile(r'"stablehlo.all_reduce"\((\S+)\) <.*?^\s+\}\)[^\n]* : (\(\S+\) -> \S+)', re.DOTALL | re.MULTILINE)


def all_reduced(operand: str, groups: str = GROUP, add: str = "add") -> str:
    return f""""stablehlo.all_reduce"({operand}) <{{replica_groups = {groups}}}> ({{
      ^bb0(%left: tensor<f32>, %right: tensor<f32>):
        %both = stablehlo.{add} %left, %right : tensor<f32>
        stablehlo.return %both : tensor<f32>
      }}) : (tensor<f32>) -> tensor<f32>"""


def program(body: str, returned: str = "%out", functions: str = "") -> Reductions:
    """Analyse a program of four replicas with the arguments first_round, replica_id, w and v, all scalars."""
    count = returned.count("%")
    names = ("w", "v")[:count]
    text = f"""module {{
      {functions}
      func.func @main(%round: tensor<i32>, %id: tensor<i32>, %w: tensor<f32>, %v: tensor<f32>)
          -> ({", ".join(["tensor<f32>"] * count)}) {{
        %own = stablehlo.convert %id : (tensor<i32>) -> tensor<f32>
        {body}
        return {returned} : {", ".join(["tensor<f32>"] * count)}
      }}
    }}"""
    with compiler.parsed(text) as module:
        return find_reductions(module, ("first_round", "replica_id", "w", "v"), names, 4)


def loop(carried: str, body: str, ends: str, until: str = "%w", name: str = "out") -> str:
    """Return a loop over floats, such as carried = "%a = %w, %b = %v"; its results are %out#0, %out#1, …"""
    count = carried.count("=")
    types = ", ".join(["tensor<f32>"] * count)
    return f"""%{name}:{count} = stablehlo.while({carried}) : {types}
      cond {{
        %less = stablehlo.compare LT, %w, {until} : (tensor<f32>, tensor<f32>) -> tensor<i1>
        stablehlo.return %less : tensor<i1>
      }} do {{
        {body}
        stablehlo.return {ends} : {types}
      }}"""


SPREADS = {
    "constant": ("%out = stablehlo.constant dense<1.0> : tensor<f32>", FREE),
    "round": ("%out = stablehlo.convert %round : (tensor<i32>) -> tensor<f32>", FREE),
    "variable": ("%out = stablehlo.add %w, %v : tensor<f32>", EQUAL),
    "replica": ("%out = stablehlo.add %w, %own : tensor<f32>", VARIES),
    "summed": (f"%out = {all_reduced('%own')}", EQUAL),
    "id of the device": (
        "%p = stablehlo.partition_id : tensor<ui32>\n%out = stablehlo.convert %p : (tensor<ui32>) -> tensor<f32>", VARIES,
    ),
    "collective of other kind": (
        '%out = "stablehlo.collective_permute"(%w) {source_target_pairs = dense<[[0, 1]]> : tensor<1x2xi64>}'
        " : (tensor<f32>) -> tensor<f32>", VARIES,
    ),
    "unknown call": ("%out = stablehlo.custom_call @anything(%w) : (tensor<f32>) -> tensor<f32>", VARIES),
    "captured by a region": (
        """%rows = stablehlo.broadcast %w, sizes = [2] : (tensor<f32>) -> tensor<2xf32>
        %none = stablehlo.constant dense<0.0> : tensor<f32>
        %mapped = "stablehlo.map"(%rows) <{dimensions = array<i64: 0>}> ({
        ^bb0(%each: tensor<f32>):
          %more = stablehlo.add %each, %own : tensor<f32>
          stablehlo.return %more : tensor<f32>
        }) : (tensor<2xf32>) -> tensor<2xf32>
        %out = stablehlo.reduce(%mapped init: %none) applies stablehlo.add across dimensions = [0]
            : (tensor<2xf32>, tensor<f32>) -> tensor<f32>""", VARIES,
    ),
    "branch": (
        """%zero = stablehlo.constant dense<0> : tensor<i32>
        %first = stablehlo.compare EQ, %round, %zero : (tensor<i32>, tensor<i32>) -> tensor<i1>
        %out = "stablehlo.if"(%first) ({ stablehlo.return %w : tensor<f32> }, { stablehlo.return %own : tensor<f32> })
            : (tensor<i1>) -> tensor<f32>""", VARIES,
    ),
    "choice of a branch": (
        '%out = "stablehlo.case"(%id) ({ stablehlo.return %w : tensor<f32> }, { stablehlo.return %v : tensor<f32> })'
        " : (tensor<i32>) -> tensor<f32>", VARIES,
    ),
    "branches that are equal": (
        '%out = "stablehlo.case"(%round) ({ stablehlo.return %w : tensor<f32> }, { stablehlo.return %v : tensor<f32> })'
        " : (tensor<i32>) -> tensor<f32>", EQUAL,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPREADS)
def test_a_result_varies_if_anything_that_it_depends_on_varies(name: str) -> None:
    body, spread = SPREADS[name]
    assert program(body).results["w"].spread == spread


def test_a_loop_hands_a_variation_on_until_nothing_changes() -> None:
    chain = loop("%a = %w, %b = %w, %c = %w, %d = %w", "", "%b, %c, %own, %d")
    found = program(chain, "%out#0, %out#3")  # %a depends on the replica from the third pass on
    assert [value.spread for value in found.results.values()] == [VARIES, EQUAL]


def test_a_loop_whose_length_varies_makes_all_that_it_carries_vary() -> None:
    assert program(loop("%a = %v", "", "%a", until="%own"), "%out#0").varying == ["w"]


def test_nested_loops_reach_a_fixed_point_together() -> None:
    # From the second pass of the outer loop on, %b depends on the replica, and with it what the inner loop makes of %a.
    inner = loop("%x = %a", "", "%b", name="in")
    assert program(loop("%a = %w, %b = %w", inner, "%in, %own"), "%out#0, %out#1").varying == ["w", "v"]
    found = program(loop("%a = %w, %b = %w", f"{inner}\n%sum = {all_reduced('%in')}", "%sum, %own"), "%out#0, %out#1")
    assert (found.varying, found.repeated) == (["v"], [])
    assert [each.spread for each in found.sums] == [VARIES], "in the first pass it is equal: the last one counts"


def test_a_function_is_followed_and_counted_in_each_call() -> None:
    function = (
        f"func.func private @total(%x: tensor<f32>) -> tensor<f32> {{\n%y = {all_reduced('%x')}\nreturn %y : tensor<f32>\n}}"
    )
    call = "%{} = func.call @total(%{}) : (tensor<f32>) -> tensor<f32>"
    found = program(f"{call.format('a', 'own')}\n{call.format('out', 'w')}", "%a, %out", function)
    assert [each.spread for each in found.sums] == [VARIES, EQUAL]
    assert (found.varying, found.repeated) == ([], ["v"])
    undefined = call.format("out", "w").replace("@total", "@elsewhere")
    with pytest.raises(Exception, match="elsewhere"):  # the parser already refuses it
        program(undefined)


@pytest.mark.parametrize(
    ("groups", "complete"),
    [
        (GROUP, True),
        ("dense<[[3, 1, 0, 2]]> : tensor<1x4xi64>", True),
        ("dense<> : tensor<0x0xi64>", True),  # all replicas
        ("dense<[[0, 1], [2, 3]]> : tensor<2x2xi64>", False),
        ("dense<[[0, 1, 2]]> : tensor<1x3xi64>", False),
        ("dense<0> : tensor<1x1xi64>", False),
    ],
)
def test_a_sum_must_have_all_replicas_in_one_group(groups: str, complete: bool) -> None:
    found = program(f"%out = {all_reduced('%own', groups)}")
    assert (not found.incomplete, not found.varying) == (complete, complete)


def test_the_variables_nearest_to_a_repeated_sum_are_named() -> None:
    once, twice = f"%once = {all_reduced('%own')}", f"%twice = {all_reduced('%once')}"
    later = "%later = stablehlo.add %v, %twice : tensor<f32>"
    assert program(f"{once}\n{twice}", "%once, %twice").repeated == ["v"]
    assert program(f"{once}\n{twice}\n{later}", "%twice, %later").repeated == ["w", "v"], "each depends on one such sum"
    last = f"{later}\n%last = {all_reduced('%later')}"
    found = program(f"{once}\n{twice}\n{last}", "%twice, %last")
    assert [each.spread for each in found.sums] == [VARIES, EQUAL, EQUAL]
    # What goes round the loop does not count: %b depends on %a of the pass before.
    round_the_loop = loop("%a = %w, %b = %v", f"{once}\n{twice}", "%twice, %a")
    assert program(round_the_loop, "%out#0, %out#1").repeated == ["w"]


def test_sums_that_are_no_fault() -> None:
    constant = "%part = stablehlo.constant dense<0.25> : tensor<f32>"
    assert program(f"{constant}\n%out = {all_reduced('%part')}").repeated == [], "parts that depend on nothing may be equal"
    assert program(f"%out = {all_reduced('%w', add='maximum')}").repeated == [], "the maximum of equal values is that value"


def lowered(topology: str = "v5e:2x4", **train: Any) -> tuple[lowering.Program, int]:
    config = small(topology, **train)
    return lowering.lowered_call(config), config.slice.replicas


def check(found: tuple[lowering.Program, int], change: Callable[[str], str] = str) -> int:
    made, replicas = found
    with compiler.parsed(change(made.text)) as module:
        return check_reductions(module, made.arguments, made.results, replicas)


@functools.cache
def sound() -> tuple[lowering.Program, int]:
    return lowered()


def without_sums(text: str) -> str:
    """Put the operand of each all-reduce in the place of its result."""
    changed, count = ALL_REDUCE.subn(r"stablehlo.reshape \1 : \2", text)
    assert count > 10
    return changed


def test_the_training_is_accepted_and_its_gradients_are_counted() -> None:
    assert check(sound()) == 16, "of the generator 10, of the critic 6 variables"


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("v5e:1x1", {}), ("v5e:2x2", {"n_critic": 1}), ("v4:2x2x1", {}), ("v5e:2x4", {"networks": "residual"}),
    ("v5e:2x4", {"conditional": True}), ("v5e:2x4", {"penalty_every_rounds": 5}), ("v5e:2x4", {"lipschitz": "clip"}),
    ("v5e:2x4", {"optimizer": "sgd", "precision": "float32"}),
    ("v5e:2x4", {"networks": "residual", "conditional": True, "penalty_every_rounds": 5, "data": "stream"}),
]  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize(("topology", "settings"), KINDS, ids=str)
def test_every_kind_of_training_is_accepted(topology: str, settings: dict[str, Any]) -> None:
    sums = check(lowered(topology, **settings))
    assert (sums > 0) == (topology != "v5e:1x1")


def no_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "summed", list)


def in_generator_step(monkeypatch: pytest.MonkeyPatch, summed: Callable[..., Any]) -> None:
    sound_step = step.generator_step

    def fault(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, "summed", summed)
            return sound_step(*arguments)

    monkeypatch.setattr(step, "generator_step", fault)


def no_sums_of_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    in_generator_step(monkeypatch, list)


def sums_of_the_generator_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    summed = step.summed
    in_generator_step(monkeypatch, lambda gradients: summed(summed(gradients)))


def sums_by_the_optimizer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(step._Update, "_all_reduce_sum_gradients")


def the_same_latents_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    sound_step = step.generator_step
    monkeypatch.setattr(step, "generator_step", lambda s, c, latents, labels: sound_step(s, c, tf.ones_like(latents), labels))


def a_norm_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sound_step = step.generator_step

    def fault(state: step.State, config: TrainConfig, latents: tf.Tensor, labels: tf.Tensor) -> Any:
        parts, _ = step.generator_gradients(state, config, latents, labels)
        return sound_step(state, config, latents, labels)[0], tf.linalg.global_norm(parts)

    monkeypatch.setattr(step, "generator_step", fault)


def an_average_of_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = step._update_ema

    def fault(state: step.State, config: TrainConfig) -> None:
        sound(state, config)
        average = state.ema_generator.variables[0].value
        average.assign(average * tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32))

    monkeypatch.setattr(step, "_update_ema", fault)


def the_same_rows_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(config: TrainConfig) -> noise.Rows:
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        return noise.replica_rows(tf.constant(0), replicas, config.global_batch_size)

    monkeypatch.setattr(step, "own_rows", fault)


DIFFER = r"and \d+ other variables differ between the 8 replicas: their updates are not reduced\."
TWICE = (
    r"and \d+ other variables is a sum over 8 replicas of values that are equal on all of them: it is reduced more than once"
)
FAULTS = {
    no_sums: f"^generator/000/kernel {DIFFER}",
    sums_by_the_optimizer_too: f"^The update of generator/000/kernel {TWICE}",
    no_sums_of_the_generator: f"^generator/000/kernel {DIFFER}",
    sums_of_the_generator_twice: f"^The update of generator/000/kernel {TWICE}",
    the_same_latents_on_all: f"^The update of generator/000/kernel {TWICE}",
    a_norm_of_parts: "^whole_metrics differs between the 8 replicas: it is not computed from reduced values",
    an_average_of_own_values: "^ema_generator/000/kernel differs between the 8 replicas: its update is not reduced",
    the_same_rows_on_all: "^Nothing in the program depends on the replica: all 8 replicas compute the same rows of the batch",
}
LIGHT = (no_sums, sums_by_the_optimizer_too)  # each of the others needs seconds to lower too


@pytest.mark.parametrize(
    "fault", [pytest.param(each, marks=[] if each in LIGHT else [pytest.mark.heavy], id=each.__name__) for each in FAULTS]
)
def test_a_planted_fault_is_refused_with_the_variable_that_it_changes(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with pytest.raises(ProgramRefusedError, match=FAULTS[fault]):
        check(lowered())


@pytest.mark.heavy
def test_only_what_is_not_reduced_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    no_sums_of_the_generator(monkeypatch)
    made, replicas = lowered()
    with compiler.parsed(made.text) as module:
        varying = find_reductions(module, made.arguments, made.results, replicas).varying
    counters = {"critic_optimizer/000/iteration", "generator_optimizer/000/iteration"}
    named = {name for name in made.results if name.startswith(("generator", "ema_generator"))} - counters
    assert set(varying) == named | {"whole_metrics"}, "the critic's gradients are still summed"


def test_sums_within_half_of_the_replicas_are_refused() -> None:
    whole, halves = (
        "dense<[[0, 1, 2, 3, 4, 5, 6, 7]]> : tensor<1x8xi64>",
        "dense<[[0, 1, 2, 3], [4, 5, 6, 7]]> : tensor<2x4xi64>",
    )
    sentence = "An all-reduce has the replica groups dense<[[0, 1, 2, 3], [4, 5, 6, 7]]>, not one group of all 8 replicas."
    with pytest.raises(ProgramRefusedError, match=re.escape(sentence)):
        check(sound(), lambda text: text.replace(whole, halves))


@pytest.mark.heavy
def test_the_stage_that_compiles_refuses_a_program_without_its_sums(tmp_path: Path) -> None:
    config = small()
    lowering._work(config, tmp_path)
    file = tmp_path / "program.mlir"
    file.write_text(without_sums(file.read_text()))
    with pytest.raises(ProgramRefusedError, match=DIFFER):
        run_subprocess("components.tpu_check.compiler", config, tmp_path, compiler.ENVIRONMENT)
