"""The artifacts of a run and the artifacts that each was made from, as a table and as SVG geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.report.artifact_reader import ArtifactReader
from components.report.formatting import moment, size
from components.report.outcomes import StepOutcome

BOX_WIDTH, BOX_HEIGHT, GAP = 148, 54, 44
MARGIN = 4  # pixels left of the first box
LANE = 24  # height that each longer arrow adds above the boxes


@dataclass(frozen=True)
class ArtifactRow:
    """One artifact; `inputs` are (name, short digest), `x` is the left edge of its box in pixels."""

    step: str
    kind: str
    path: str
    digest: str
    inputs: tuple[tuple[str, str], ...]
    created_at: str
    size: str
    x: int


class LineageSection:
    """The artifacts, and their graph: straight arrows between neighbours, and arcs between the others, as SVG paths."""

    def __init__(self, rows: tuple[ArtifactRow, ...]) -> None:
        self.rows = rows
        indices = {row.digest[:12]: index for index, row in enumerate(rows)}
        edges = sorted(
            {(indices[digest], end) for end, row in enumerate(rows) for _, digest in row.inputs if digest in indices},
            key=lambda edge: edge[1] - edge[0],
        )
        longest = max((end - start for start, end in edges), default=1)
        self.top = 8 + LANE * max(0, longest - 1)
        self.width = MARGIN + len(rows) * (BOX_WIDTH + GAP) - GAP + MARGIN
        self.height = self.top + BOX_HEIGHT + 8
        self.arrows = [_arrow(rows[start].x, rows[end].x, self.top, end - start) for start, end in edges if start < end]
        sentences = [f"The {rows[end].kind} was made from the {rows[start].kind}." for start, end in edges]
        self.description = " ".join(sentences) or "No artifact was made from another."


def artifact_rows(outcomes: tuple[StepOutcome, ...], readers: Mapping[str, ArtifactReader]) -> tuple[ArtifactRow, ...]:
    """Return the artifacts that the journal names, in the order of the steps, including those that no longer exist."""
    rows: list[ArtifactRow] = []
    for outcome in outcomes:
        if outcome.record is None or outcome.record.artifact is None:
            continue
        manifest = readers[outcome.step].manifest
        rows.append(
            ArtifactRow(
                step=outcome.step,
                kind=manifest.kind if manifest else "(missing)",
                path=outcome.record.artifact.path,
                digest=outcome.record.artifact.digest,
                inputs=tuple((name, ref.digest[:12]) for name, ref in outcome.record.inputs.items()),
                created_at=moment(manifest.created_at) if manifest else "",
                size=size(sum(entry.bytes for entry in manifest.files.values())) if manifest else "",
                x=MARGIN + len(rows) * (BOX_WIDTH + GAP),
            )
        )
    return tuple(rows)


def _arrow(start: int, end: int, top: int, span: int) -> str:
    if span == 1:
        return f"M{start + BOX_WIDTH} {top + BOX_HEIGHT // 2}H{end - 7}"
    above = top - LANE * (span - 1)
    left, right = start + BOX_WIDTH - 18 * (span - 1), end + 22 * (span - 1)
    return f"M{left} {top}C{left} {above} {right} {above} {right} {top - 7}"
