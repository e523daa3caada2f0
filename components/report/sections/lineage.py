"""The artifacts of a run and the artifacts that each was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from components.report.artifact_reader import ArtifactReader
from components.report.formatting import moment, size
from components.report.outcomes import StepOutcome


class ArtifactRow(NamedTuple):
    """One artifact; `inputs` are (name, short digest)."""

    step: str
    kind: str
    path: str
    digest: str
    inputs: tuple[tuple[str, str], ...]
    created_at: str
    size: str


def artifact_rows(outcomes: tuple[StepOutcome, ...], readers: Mapping[str, ArtifactReader]) -> tuple[ArtifactRow, ...]:
    """Return the artifacts that the journal names, in the order of the steps, including those that no longer exist."""
    rows = []
    for outcome in outcomes:
        if outcome.record and outcome.record.artifact:
            manifest, artifact = readers[outcome.step].manifest, outcome.record.artifact
            rows.append(
                ArtifactRow(
                    step=outcome.step,
                    kind=manifest.kind if manifest else "(missing)",
                    path=artifact.path,
                    digest=artifact.digest,
                    inputs=tuple((name, ref.digest[:12]) for name, ref in outcome.record.inputs.items()),
                    created_at=moment(manifest.created_at) if manifest else "",
                    size=size(sum(entry.bytes for entry in manifest.files.values())) if manifest else "",
                )
            )
    return tuple(rows)
