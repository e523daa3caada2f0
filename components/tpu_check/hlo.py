"""Reads the text of a compiled HLO module: loops and their trip counts, all-reduces, convolutions, host transfers.

XLA's own cost analysis counts the body of a loop once, so the counts are made here (test_run.py compares them on a module
with two nested loops).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = ")
ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+\w*|c\d+)\[([\d,]*)\](?:\{([^}]*)\})?")
CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
NAME = re.compile(r"%([\w.-]+)")
# These move no bytes, or bytes that are counted with another instruction.
FREE = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "constant", "call", "after-all",
    "partition-id",
}  # fmt: skip
VMEM, HOST_MEMORY = "S(1)", "S(5)"  # memory spaces in a layout; VMEM is the chip's own memory


class Instruction(NamedTuple):
    """One line of HLO: `%name = type opcode(operands), attributes`; `rest` begins at the parenthesis."""

    name: str
    type: str
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return NAME.findall(self.rest[: _end_of_parentheses(self.rest)])

    @property
    def called(self) -> list[str]:
        """The names of the computations that it calls."""
        branches = BRANCHES.search(self.rest)
        return CALLED.findall(self.rest) + (NAME.findall(branches[1]) if branches else [])


class Loop(NamedTuple):
    """A while instruction: the computation that holds it, its body, and its trip count (0: unknown)."""

    inside: str
    body: str
    trips: int


class HloModule:
    """The computations of a compiled module by name, and how often a run of the module executes each."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = name = ""
        for line in text.splitlines():
            if head := COMPUTATION.match(line):
                name = head[2]
                self.computations[name] = []
                self.entry = name if head[1] else self.entry
            elif name and (start := INSTRUCTION.match(line)):
                self.computations[name].append(_instruction(start[1], line[start.end() :]))
        self.loops = [self._loop(inside, instruction) for inside, instruction in self._all("while")]
        self.executions = dict.fromkeys(self.computations, 0.0)
        self._count_executions(self.entry, 1.0, {loop.body: float(max(1, loop.trips)) for loop in self.loops})

    def all_reduces(self) -> tuple[float, float]:
        """Return how many all-reduces a run executes, and how many bytes each replica contributes to them."""
        found = [(self.executions[inside], size(each.type)) for inside, each in self._all("all-reduce")]
        return sum(count for count, _ in found), sum(count * size_bytes for count, size_bytes in found)

    def convolutions(self) -> tuple[int, int]:
        """Return the number of convolutions and matrix products, and of those whose operands are all bfloat16."""
        found = [*self._all("convolution"), *self._all("dot")]
        types = {inside: {each.name: each.type for each in self.computations[inside]} for inside, _ in found}
        kinds = [[types[inside].get(operand, "") for operand in each.operands] for inside, each in found]
        return len(found), sum(all(kind.startswith("bf16") for kind in both) for both in kinds)

    def host_transfers(self) -> int:
        """Return how many instructions inside loops send to the host or wait for it."""
        inside_loops = {name for loop in self.loops for name in self._reachable(loop.body)}
        return sum(_is_host_transfer(each) for name in inside_loops for each in self.computations[name])

    def vmem_bytes(self) -> float:
        """Return the bytes that a run moves to and from VMEM, which cost no HBM bandwidth."""
        total = 0.0
        for name in self._reachable(self.entry, fusions=False):
            types = {each.name: each.type for each in self.computations[name]}
            for each in self.computations[name]:
                if each.opcode not in FREE and not each.opcode.endswith("-done"):
                    moved = [each.type, *(types.get(operand, "") for operand in each.operands)]
                    total += self.executions[name] * sum(size(kind, VMEM) for kind in moved)
        return total

    def total(self, cost: Callable[[str], float], computation: str = "") -> float:
        """Return the cost of a run (or of one computation), where `cost(computation)` counts each loop body only once."""
        computation = computation or self.entry
        reached = self._reachable(computation, loops=False)
        total = cost(computation)
        for loop in self.loops:
            if loop.inside in reached:
                total += max(1, loop.trips) * self.total(cost, loop.body) - cost(loop.body)
        return total

    def _all(self, opcode: str) -> Iterator[tuple[str, Instruction]]:
        for name, instructions in self.computations.items():
            for each in instructions:
                if each.opcode in (opcode, f"{opcode}-start"):
                    yield name, each

    def _loop(self, inside: str, each: Instruction) -> Loop:
        called = dict(re.findall(r"\b(condition|body)=%([\w.-]+)", each.rest))
        # tf.while_loop with a fixed trip count becomes `index < constant`, starting from 0.
        limits = [
            inner.rest
            for inner in self.computations[called["condition"]]
            if inner.opcode == "constant" and inner.type.startswith("s32[]")
        ]
        trips = int(limits[0][1 : limits[0].index(")")]) if len(limits) == 1 else 0
        return Loop(inside, called["body"], trips)

    def _count_executions(self, name: str, factor: float, trips: dict[str, float]) -> None:
        self.executions[name] += factor
        for each in self.computations[name]:
            for called in each.called:
                self._count_executions(called, factor * trips.get(called, 1.0) if each.opcode == "while" else factor, trips)

    def _reachable(self, start: str, *, fusions: bool = True, loops: bool = True) -> set[str]:
        found, waiting = set(), [start]
        while waiting:
            name = waiting.pop()
            found.add(name)
            for each in self.computations[name]:
                follow = loops if each.opcode == "while" else fusions or each.opcode in ("conditional", "call")
                waiting += [called for called in each.called if follow and called not in found]
        return found


def size(kind: str, space: str = "") -> int:
    """Return the bytes of an HLO type, tuples included; with `space`, only of arrays in that memory, padded to tiles."""
    total = 0
    for dtype, dimensions, layout in ARRAY.findall(kind):
        if space and space not in layout:
            continue
        lengths = [int(length) for length in dimensions.split(",") if length]
        bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
        total += math.prod(_padded(lengths, layout) if space else lengths) * bits // 8
    return total


def _padded(lengths: list[int], layout: str) -> list[int]:
    order, _, tiling = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiling)
    if not tile or not order:
        return lengths
    padded, minor_first = list(lengths), [int(axis) for axis in order.split(",")]
    for axis, length in zip(minor_first, reversed([int(length) for length in tile[1].split(",")]), strict=False):
        padded[axis] = -(-padded[axis] // length) * length
    return padded


def _instruction(name: str, text: str) -> Instruction:
    end = _end_of_parentheses(text) if text.startswith("(") else text.index(" ")
    opcode, _, rest = text[end:].lstrip().partition("(")
    return Instruction(name, text[:end], opcode, f"({rest}")


def _end_of_parentheses(text: str) -> int:
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return index + 1
    return len(text)


def _is_host_transfer(each: Instruction) -> bool:
    sends = each.opcode in ("send", "recv") and "is_host_transfer=true" in each.rest
    return sends or each.opcode in ("infeed", "outfeed") or HOST_MEMORY in each.type
