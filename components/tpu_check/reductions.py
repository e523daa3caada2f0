"""Finds updates that are not summed over the replicas, or summed twice, by following values through a StableHLO program.

Every replica runs the same program on the same arguments except its `replica_id`. A value *varies* if it may depend on that,
and an all-reduce over all replicas makes it equal again; variables must be equal at the end. This is the check of JAX's
shard_map for "varying manual axes" (docs.jax.dev/en/latest/notebooks/shard_map.html), here on lowered code and with loops.

The check is conservative: what it does not know varies. It cannot see whether the rows or the noise of a replica are the right
ones, or whether a part was divided by the right number; executing the program shows that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from components.tpu_check.errors import ProgramRefusedError

FREE, EQUAL, VARIES = 0, 1, 2  # depends on neither variables nor data; is the same on all replicas; may differ
REPLICA_ID, FIRST_ROUND = "replica_id", "first_round"
PART_METRICS, WHOLE_METRICS = "part_metrics", "whole_metrics"  # each replica has its part of the first; both are results
DIALECTS = ("stablehlo", "mhlo", "chlo")
# The results of these may differ even if their operands do not.
SOURCES = {
    "replica_id", "partition_id", "all_to_all", "collective_broadcast", "collective_permute", "composite", "custom_call",
    "infeed", "recv", "reduce_scatter", "rng",
}  # fmt: skip


class Value(NamedTuple):
    """How a value may differ between replicas, and a bit for each sum that it depends on within one pass of its loop."""

    spread: int
    sums: int


class Sum(NamedTuple):
    """One all-reduce of one tensor: the spread of its operand, and whether it adds."""

    spread: int
    adds: bool


class Reductions(NamedTuple):
    """What a program reduces: each sum, the replica groups that are not all replicas, and each result by its name."""

    sums: tuple[Sum, ...]
    incomplete: tuple[str, ...]
    results: dict[str, Value]

    @property
    def varying(self) -> list[str]:
        """The results that may differ between replicas, but for PART_METRICS."""
        return [name for name, value in self.results.items() if value.spread == VARIES and name != PART_METRICS]

    @property
    def depends_on_the_replica(self) -> bool:
        """Whether any sum or result depends on the replica."""
        return VARIES in [each.spread for each in self.sums] + [value.spread for value in self.results.values()]

    @property
    def repeated(self) -> list[str]:
        """The results that depend most directly on a sum of values that were equal before.

        Of those that depend on it within one pass of a loop, they are the ones that depend on the fewest such sums. Values that
        depend on neither variables nor data are no fault: the critic's last bias has such a gradient.
        """
        faulty = [1 << bit for bit, each in enumerate(self.sums) if each.spread == EQUAL and each.adds]
        found = set()
        for bit in faulty:
            reached = {name: value.sums & sum(faulty) for name, value in self.results.items() if value.sums & bit}
            fewest = min((sums.bit_count() for sums in reached.values()), default=0)
            found |= {name for name, sums in reached.items() if sums.bit_count() == fewest}
        return [name for name in self.results if name in found]


def check_reductions(module: Any, arguments: Sequence[str], results: Sequence[str], replicas: int) -> int:
    """Return how many tensors the program of one of `replicas` sums over all of them.

    `arguments` and `results` are the names in lowering.Program. Raises ProgramRefusedError if a variable, or a metric that must
    be equal, may differ between replicas; if equal values are summed; if an all-reduce leaves replicas out; and if no value
    depends on the replica.
    """
    found = find_reductions(module, arguments, results, replicas)
    if replicas > 1:
        _refuse(found, replicas)
    return len(found.sums)


def _refuse(found: Reductions, replicas: int) -> None:
    if found.incomplete:
        raise ProgramRefusedError(
            f"An all-reduce has the replica groups {found.incomplete[0]}, not one group of all {replicas} replicas.",
            "Sum over all replicas with the all_reduce of the replica context, as step.summed does.",
        )
    if not found.depends_on_the_replica:
        raise ProgramRefusedError(
            f"Nothing in the program depends on the replica: all {replicas} replicas compute the same rows of the batch.",
            "Give each replica its own rows and noise: step.own_rows.",
        )
    if variables := [name for name in found.varying if name != WHOLE_METRICS]:
        differ, their = ("differ", "their updates are") if len(variables) > 1 else ("differs", "its update is")
        raise ProgramRefusedError(
            f"{_named(variables)} {differ} between the {replicas} replicas: {their} not reduced.",
            "Sum gradients over the replicas before they are applied (step.summed), and compute averages from variables that"
            " are equal on all replicas.",
        )
    if found.varying:
        raise ProgramRefusedError(
            f"{WHOLE_METRICS} differs between the {replicas} replicas: it is not computed from reduced values.",
            "Compute the norms from the summed gradients, or return the metric among part_metrics.",
        )
    if repeated := found.repeated:
        raise ProgramRefusedError(
            f"The update of {_named(repeated)} is a sum over {replicas} replicas of values that are equal on all of them: it is"
            " reduced more than once, or every replica computes the same rows.",
            "Sum each gradient once, in step.summed, so that the optimizer does not sum it again; give each replica its own"
            " rows.",
        )


def _named(names: Sequence[str]) -> str:
    others = len(names) - 1
    return f"{names[0]} and {others} other variable{'s' * (others > 1)}" if others else names[0]


def find_reductions(module: Any, arguments: Sequence[str], results: Sequence[str], replicas: int) -> Reductions:
    """Return what the program of one of `replicas` reduces, and how its results may differ between replicas."""
    analysis = _Analysis(module, replicas)
    spreads = {REPLICA_ID: VARIES, FIRST_ROUND: FREE}
    values = analysis.function("main", [Value(spreads.get(name, EQUAL), 0) for name in arguments])
    return Reductions(tuple(analysis.sums.values()), tuple(analysis.incomplete), dict(zip(results, values, strict=True)))


class _Analysis:
    """Evaluates a module with `Value`s instead of arrays."""

    def __init__(self, module: Any, replicas: int) -> None:
        self.functions = {each.name.value: each for each in module.body.operations if each.operation.name == "func.func"}
        self.replicas = replicas
        self.known: dict[Any, Value] = {}
        self.calls: tuple[Any, ...] = ()  # the calls that led here: a function may sum other values in each
        self.bits: dict[Any, int] = {}  # of each sum, by these calls and the operation
        self.sums: dict[int, Sum] = {}
        self.incomplete: list[str] = []

    def function(self, name: str, arguments: Sequence[Value]) -> list[Value]:
        """Return the results of a function."""
        return self._block(self.functions[name].regions[0].blocks[0], arguments)

    def _block(self, block: Any, arguments: Iterable[Value]) -> list[Value]:
        """Return what the last operation of a block returns."""
        self.known.update(zip(block.arguments, arguments, strict=True))
        operands: list[Value] = []
        for each in block.operations:
            operation = each.operation
            operands = [self.known.get(operand, Value(VARIES, 0)) for operand in operation.operands]
            results = list(operation.results)
            if results:
                self.known.update(zip(results, self._results(operation, operands, len(results)), strict=True))
        return operands

    def _results(self, operation: Any, operands: list[Value], count: int) -> list[Value]:
        name = operation.name
        if name == "stablehlo.all_reduce":
            return [self._sum(operation, index, operand) for index, operand in enumerate(operands)]
        if name == "stablehlo.while":
            return self._loop(operation, operands)
        if name in ("stablehlo.if", "stablehlo.case"):
            branches = [self._block(region.blocks[0], ()) for region in operation.regions]
            return [_joined((operands[0], *each)) for each in zip(*branches, strict=True)]
        if name == "func.call" and (callee := operation.attributes["callee"].value) in self.functions:
            self.calls += (operation,)
            returned = self.function(callee, operands)
            self.calls = self.calls[:-1]
            return returned
        return [self._other(operation, _joined(operands))] * count

    def _other(self, operation: Any, value: Value) -> Value:
        """Return the results' value for an operation of which only is known where its operands come from."""
        blocks = [list(region.blocks) for region in operation.regions]
        for inner in (each[0] for each in blocks if each):
            value = _joined((value, *self._block(inner, [value] * len(inner.arguments))))
        dialect, _, name = operation.name.partition(".")
        known = dialect in DIALECTS and name not in SOURCES and all(len(each) == 1 for each in blocks)
        return value if known else Value(VARIES, value.sums)

    def _sum(self, operation: Any, index: int, operand: Value) -> Value:
        bit = self.bits.setdefault((self.calls, operation, index), 1 << len(self.bits))
        adds = any(each.operation.name == "stablehlo.add" for each in operation.regions[0].blocks[0].operations)
        known = self.sums.get(bit, Sum(FREE, adds))
        self.sums[bit] = Sum(max(known.spread, operand.spread), adds)
        groups = operation.attributes["replica_groups"]
        members = list(groups)  # none: all replicas
        if members and (groups.type.shape[0] > 1 or sorted(members) != list(range(self.replicas))):
            self.incomplete.append(str(groups).partition(" :")[0])
            return Value(VARIES, operand.sums | bit)
        return Value(EQUAL, operand.sums | bit)

    def _loop(self, operation: Any, start: list[Value]) -> list[Value]:
        """Return what a loop carries at its end: spreads at their fixed point, sums of one pass."""
        condition, body = (region.blocks[0] for region in operation.regions)
        carried = start
        while True:
            predicate = _joined(self._block(condition, carried))
            passed = self._block(body, carried)
            ends = [_joined((begin, end, predicate)) for begin, end in zip(carried, passed, strict=True)]
            if all(begin.spread == end.spread for begin, end in zip(carried, ends, strict=True)):
                return ends
            carried = [Value(end.spread, begin.sums) for begin, end in zip(start, ends, strict=True)]


def _joined(values: Iterable[Value]) -> Value:
    """Return what is known of a value that depends on all of these."""
    spread, sums = FREE, 0
    for value in values:
        spread, sums = max(spread, value.spread), sums | value.sums
    return Value(spread, sums)
