"""Publishes a model if it beats the champion, or records why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from components.common.artifacts import MANIFEST, new_artifact, now, write_bytes, write_json
from components.common.progress import say
from components.common.section import Summary
from components.push.candidate import SAMPLES_FILE, Candidate, read_candidate
from components.push.config import PushConfig
from components.push.registry.location import RegistryLocation, open_registry, version_location
from components.push.registry.registry import (
    VERSIONS,
    Champion,
    ConflictError,
    Decision,
    check_image_size,
    read_champion,
    read_decision,
    remove_partial_writes,
    set_champion,
    version_of_model,
    write_decision,
)

CHAMPION_SAMPLES = "champion_samples.png"
ATTEMPTS = 3  # a push decides again when another one changed the registry first

# TensorFlow, Jinja2 and NumPy are imported where they are needed: a model that was decided on before needs none of them.


class PushSummary(Summary):
    """The decision. `champion` is the version the model was compared with, `uri` the location of the model's own version."""

    decision: Literal["published", "kept", "unchanged"]
    reason: str
    version: str
    uri: str
    champion: str
    champion_kid: float | None


def run(
    config: PushConfig, *, registry: RegistryLocation, model: Path, evaluation: Path, validation: Path, out: Path
) -> PushSummary:
    """Decide on `model`, publish it into `registry` or not, and write the push artifact `out`.

    Raises ArtifactError when an input or the registry is damaged, when the inputs do not belong together or when the load test
    fails; ConfigError when the champion makes images of another size. The old champion stays in service then.
    """
    candidate = read_candidate(model, evaluation, validation)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with open_registry(registry, change=True, versions=["champion"], model_digest=candidate.model.digest) as folder:
                remove_partial_writes(folder)
                champion = read_champion(folder)
                check_image_size(champion, *(candidate.model.details[name] for name in ("image_size", "channels")))
                champion_samples = (champion.path / SAMPLES_FILE).read_bytes() if champion else b""
                earlier = _earlier_outcome(config, folder, champion, candidate)
                summary, details = (earlier, {}) if earlier else _decide(config, folder, champion, candidate)
            break
        except ConflictError as error:
            if attempt == ATTEMPTS:
                raise
            say(f"{error.problem} Deciding again.")
    if summary.version:
        summary = summary.model_copy(update={"uri": version_location(registry, summary.version)})
    say(f"{'not published' if summary.decision == 'kept' else summary.decision}: {summary.reason}")
    details["vertex_version"] = _update_vertex(config, registry)
    with new_artifact(out, "push", config=config, inputs=candidate.inputs) as writer:
        write_json(writer.path / "decision.json", summary.model_dump(mode="json"))
        if champion_samples:  # copied for the report, which does not read the registry
            write_bytes(writer.path / CHAMPION_SAMPLES, champion_samples)
        writer.details = summary.model_dump(mode="json") | details
    return summary


def _update_vertex(config: PushConfig, registry: RegistryLocation) -> str:
    """Return the champion's version on Vertex. Runs after every decision: an interrupted push may have left Vertex outdated."""
    if not config.vertex_model:
        return ""
    from components.push.vertex_model import update_vertex

    version = update_vertex(config.vertex_model, config.serving_image, registry)
    if version:
        say(f"the champion is {version} on Vertex AI")
    return version


def _earlier_outcome(config: PushConfig, registry: Path, champion: Champion | None, candidate: Candidate) -> PushSummary | None:
    """Return the outcome if the model is in service, or was decided on and nothing that the decision depends on changed."""
    if champion is not None and champion.model_digest == candidate.model.digest:
        return _summary("unchanged", f"{champion.version} is already published.", champion.version, champion)
    earlier = read_decision(registry, candidate.model.digest)
    if earlier is None:
        return None
    if earlier.decision == "published":
        if champion is None or not (registry / VERSIONS / earlier.version / MANIFEST).is_file():
            return None  # the pointer or the version was removed: decide again
        reason = f"{earlier.version} is already published; {champion.version} has replaced it."
        return _summary("unchanged", reason, earlier.version, champion)
    current = (candidate.evaluation.digest, champion.digest if champion else "", config.rule())
    if (earlier.evaluation_digest, earlier.champion_digest, earlier.rule) != current:
        return None
    return _summary("unchanged", f"Already decided: {earlier.reason}", "", champion, earlier.champion_kid)


def _decide(
    config: PushConfig, registry: Path, champion: Champion | None, candidate: Candidate
) -> tuple[PushSummary, dict[str, Any]]:
    """Decide, publish and record the decision; return the outcome and the details it is based on."""
    from components.push.gate import gate
    from components.push.registry.publish import write_version

    rescored = None
    if champion is not None:
        from components.push.gate.rescoring import rescore_champion

        say(f"scoring {champion.version} with the extractor and images of this evaluation")
        rescored = rescore_champion(candidate, champion)
    verdict = gate.decide(config, candidate.scores, rescored, candidate.data_errors())
    version = ""
    if verdict.publish:
        interrupted = version_of_model(registry, candidate.model.digest, candidate.evaluation.digest)
        version = interrupted or write_version(config, registry, candidate, verdict.reason)
        set_champion(registry, version, champion)
    champion_kid = rescored.scores["kid"] if rescored else None
    summary = _summary("published" if verdict.publish else "kept", verdict.reason, version, champion, champion_kid)
    decision = Decision(
        **summary.model_dump(exclude={"uri"}),
        champion_digest=champion.digest if champion else "",
        model_digest=candidate.model.digest,
        evaluation_digest=candidate.evaluation.digest,
        rule=config.rule(),
        decided_at=now(),
    )
    write_decision(registry, decision)  # last: a record that says published means that version and pointer both exist
    details = {
        "champion_scores": rescored.scores if rescored else None,
        "evidence": rescored.evidence._asdict() if rescored else None,
        "checks": [check._asdict() for check in verdict.checks],
    }
    return summary, details


def _summary(
    decision: Literal["published", "kept", "unchanged"],
    reason: str,
    version: str,
    champion: Champion | None,
    champion_kid: float | None = None,
) -> PushSummary:
    if champion is not None and champion_kid is None:
        champion_kid = champion.scores["kid"]
    name = champion.version if champion else ""
    return PushSummary(decision=decision, reason=reason, version=version, uri="", champion=name, champion_kid=champion_kid)
