"""The gate step: judge whether a model may be published, beside the champion of a registry, which it only reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from components.common.artifacts import new_artifact
from components.common.progress import say
from components.common.section import Summary
from components.gate.candidate import read_candidate
from components.gate.config import GateConfig
from components.gate.judge import judge
from components.registry.registry import Registry, RegistryLocation


class GateSummary(Summary):
    """The verdict. `champion` is the version that the model was compared with."""

    decision: Literal["blessed", "not blessed", "unchanged"]
    reason: str
    champion: str
    champion_kid: float | None


def run(
    config: GateConfig, *, registry: RegistryLocation, model: Path, evaluation: Path, validation: Path, out: Path
) -> GateSummary:
    """Judge `model` beside the champion of `registry` and write the verdict artifact `out`.

    Raises ArtifactError when an input or the registry is damaged or the inputs do not belong together; ConfigError when the
    champion makes images of another size.
    """
    candidate, store = read_candidate(model, evaluation, validation, verify_model=False), Registry(registry)
    judged = judge(config, store, store.state(), candidate)
    verdict = judged.verdict
    say(f"{verdict.decision}: {verdict.reason}")
    with new_artifact(out, "verdict", config=config, inputs=candidate.inputs) as writer:
        judged.write(writer)
    summary = {name: getattr(verdict, name) for name in GateSummary.model_fields}
    return GateSummary(**summary)
