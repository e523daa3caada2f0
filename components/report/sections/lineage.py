"""What was made from what: the artifacts of a run and the arrows between them, as rows and as SVG geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.common.artifacts import Manifest
from components.common.journal import ArtifactRef
from components.report.formatting import moment, size
from components.report.outcomes import Outcome

BOX_WIDTH, BOX_HEIGHT, GAP = 148, 54, 44
LANE = 24  # height that each longer arrow adds above the boxes


@dataclass(frozen=True)
class Made:
    """One artifact: who made it, its digest, what it was made from as (name, short digest)."""

    step: str
    kind: str
    path: str
    digest: str
    inputs: tuple[tuple[str, str], ...]
    created_at: str
    size: str


@dataclass(frozen=True)
class Box:
    """A box of the graph: its left and top edge in pixels."""

    x: float
    y: float
    step: str
    kind: str
    digest: str


@dataclass(frozen=True)
class Graph:
    """The graph: boxes in the order of the steps, and arrows as SVG paths."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[str, ...]
    description: str


def list_made(outcomes: tuple[Outcome, ...], manifests: Mapping[str, Manifest | None]) -> tuple[Made, ...]:
    """Return the artifacts that the journal names, in the order of the steps, those that are gone included."""
    rows = []
    for outcome in outcomes:
        if outcome.record is not None and outcome.record.artifact is not None:
            rows.append(_made(outcome.step, outcome.record.artifact, outcome.record.inputs, manifests[outcome.step]))
    return tuple(rows)


def _made(step: str, artifact: ArtifactRef, inputs: Mapping[str, ArtifactRef], manifest: Manifest | None) -> Made:
    return Made(
        step=step,
        kind=manifest.kind if manifest else "(gone)",
        path=artifact.path,
        digest=artifact.digest,
        inputs=tuple((name, ref.digest[:12]) for name, ref in inputs.items()),
        created_at=moment(manifest.created_at) if manifest else "",
        size=size(sum(entry.bytes for entry in manifest.files.values())) if manifest else "",
    )


def draw_graph(made: tuple[Made, ...]) -> Graph | None:
    """Return the graph of the artifacts, neighbours joined straight and others by an arc; None without artifacts."""
    if not made:
        return None
    places = {row.digest[:12]: index for index, row in enumerate(made)}
    edges = sorted(
        {(places[digest], end) for end, row in enumerate(made) for _, digest in row.inputs if digest in places},
        key=lambda edge: edge[1] - edge[0],
    )
    longest = max((end - start for start, end in edges), default=1)
    top = 8 + LANE * max(0, longest - 1)
    boxes = tuple(
        Box(4 + index * (BOX_WIDTH + GAP), top, row.step, row.kind, row.digest[:12]) for index, row in enumerate(made)
    )
    words = [f"The {made[end].kind} was made from the {made[start].kind}" for start, end in edges]
    return Graph(
        width=8 + len(made) * BOX_WIDTH + (len(made) - 1) * GAP,
        height=top + BOX_HEIGHT + 8,
        boxes=boxes,
        arrows=tuple(_arrow(boxes[start], boxes[end], end - start) for start, end in edges if start < end),
        description=". ".join(words) + "." if words else "No artifact was made from another.",
    )


def _arrow(start: Box, end: Box, span: int) -> str:
    if span == 1:
        y = start.y + BOX_HEIGHT / 2
        return f"M{start.x + BOX_WIDTH:g} {y:g}H{end.x - 7:g}"
    above = start.y - LANE * (span - 1)
    left, right = start.x + BOX_WIDTH - 18 * (span - 1), end.x + 22 * (span - 1)
    return f"M{left:g} {start.y:g}C{left:g} {above:g} {right:g} {above:g} {right:g} {end.y - 7:g}"
