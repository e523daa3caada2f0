"""What a compiled program holds, read from its HLO text: loops and their turns, all-reduces, convolutions, transfers."""

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
BITS = re.compile(r"\d+")
# They move no bytes, or those of another instruction that is counted.
FREE = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "constant",
    "call",
    "after-all",
    "partition-id",
}
HOST = {"infeed", "outfeed"}
ON_CHIP = "S(1)"  # VMEM
IN_HOST = "S(5)"


class Instruction(NamedTuple):
    """One line of HLO: what it makes, of which type, and all that stands behind."""

    name: str
    type: str
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """The names of what it is made from."""
        return re.findall(r"%([\w.-]+)", self.rest[: _closing(self.rest, 0) + 1])


class Loop(NamedTuple):
    """A while instruction: the computation that holds it, its body, and how often it turns (0: not known)."""

    inside: str
    body: str
    turns: int


class Program:
    """The computations of a compiled module by name, and how often each is executed in one run of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.computations, self.entry = _computations(text)
        self.loops = [self._loop(inside, instruction) for inside, instruction in self._all("while")]
        self.times = self._times()

    def count(self, opcode: str) -> int:
        """Return how many instructions of a kind the program has; the start and the end of one count as one."""
        return sum(1 for _ in self._all(opcode))

    def reduced(self) -> tuple[float, float]:
        """Return how many all-reduces a run executes, and the bytes that each chip brings to them."""
        found = [(self.times[inside], size(each.type)) for inside, each in self._all("all-reduce")]
        return sum(times for times, _ in found), sum(times * bytes_ for times, bytes_ in found)

    def convolutions(self) -> tuple[int, int]:
        """Return how many convolutions (matrix products included) the program has, and how many take only bfloat16."""
        found = list(self._all("convolution")) + list(self._all("dot"))
        types = {inside: {each.name: each.type for each in self.computations[inside]} for inside, _ in found}
        kinds = [[types[inside].get(operand, "") for operand in each.operands] for inside, each in found]
        return len(found), sum(all(kind.startswith("bf16") for kind in both) for both in kinds)

    def host_transfers(self) -> int:
        """Return how many instructions of loops send to the host or wait for it."""
        loops = {loop.body for loop in self.loops}
        reached = {name for body in loops for name in self._reachable(body)}
        return sum(_meets_host(each) for name in reached for each in self.computations[name])

    def on_chip_bytes(self) -> float:
        """Return the bytes that a run moves to and from the chip's own memory (VMEM), which cost no HBM bandwidth."""
        total = 0.0
        for name in self._reachable(self.entry, fusions=False):
            types = {each.name: each.type for each in self.computations[name]}
            for each in self.computations[name]:
                if each.opcode in FREE or each.opcode.endswith("-done"):
                    continue
                total += self.times[name] * sum(
                    size(kind, ON_CHIP) for kind in (each.type, *map(types.get, each.operands)) if kind
                )
        return total

    def full(self, once: Callable[[str], float]) -> float:
        """Return what a run costs, where `once(computation)` counts the body of each loop in it only once."""
        return self._full(self.entry, once)

    def _full(self, computation: str, once: Callable[[str], float]) -> float:
        total = once(computation)
        reached = self._reachable(computation, loops=False)
        for loop in self.loops:
            if loop.inside in reached:
                total += max(1, loop.turns) * self._full(loop.body, once) - once(loop.body)
        return total

    def _all(self, opcode: str) -> Iterator[tuple[str, Instruction]]:
        for name, instructions in self.computations.items():
            for each in instructions:
                if each.opcode in (opcode, f"{opcode}-start"):
                    yield name, each

    def _loop(self, inside: str, each: Instruction) -> Loop:
        called = dict(re.findall(r"\b(condition|body)=%([\w.-]+)", each.rest))
        # `index < constant`, from 0: what tf.while_loop with a number of turns becomes.
        tests = [
            inner.rest
            for inner in self.computations[called["condition"]]
            if inner.opcode == "constant" and inner.type.startswith("s32[]")
        ]
        turns = int(tests[0][1 : tests[0].index(")")]) if len(tests) == 1 else 0
        return Loop(inside, called["body"], turns)

    def _times(self) -> dict[str, float]:
        turns = {loop.body: float(max(1, loop.turns)) for loop in self.loops}
        times = dict.fromkeys(self.computations, 0.0)

        def visit(name: str, factor: float) -> None:
            times[name] += factor
            for each in self.computations[name]:
                for called in _called(each):
                    visit(called, factor * turns.get(called, 1.0) if each.opcode == "while" else factor)

        visit(self.entry, 1.0)
        return times

    def _reachable(self, start: str, *, fusions: bool = True, loops: bool = True) -> set[str]:
        found, waiting = set(), [start]
        while waiting:
            name = waiting.pop()
            found.add(name)
            for each in self.computations[name]:
                follow = loops if each.opcode == "while" else fusions or each.opcode in ("conditional", "call")
                waiting += [called for called in _called(each) if follow and called not in found]
        return found


def size(kind: str, space: str = "") -> int:
    """Return the bytes of an HLO type, tuples included; with `space`, only of arrays in that memory, padded to tiles."""
    total = 0
    for dtype, dimensions, layout in ARRAY.findall(kind):
        if space and space not in layout:
            continue
        lengths = [int(length) for length in dimensions.split(",") if length]
        if space:
            lengths = _padded(lengths, layout)
        bits = 8 if dtype == "pred" else int(BITS.findall(dtype)[0])
        total += math.prod(lengths) * bits // 8
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


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    found: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            name = head[2]
            found[name] = []
            entry = name if head[1] else entry
        elif name and (start := INSTRUCTION.match(line)):
            found[name].append(_instruction(start[1], line[start.end() :]))
    return found, entry


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    return Instruction(name, kind, opcode, f"({rest}")


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    return len(text) - 1


def _called(each: Instruction) -> list[str]:
    branches = BRANCHES.search(each.rest)
    return CALLED.findall(each.rest) + (re.findall(r"%([\w.-]+)", branches[1]) if branches else [])


def _meets_host(each: Instruction) -> bool:
    sends = each.opcode in ("send", "recv") and "is_host_transfer=true" in each.rest
    return sends or each.opcode in HOST or IN_HOST in each.type
