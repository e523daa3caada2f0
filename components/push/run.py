"""Publishes a model if it beats the champion, or records why not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

from components.common.artifacts import new_artifact, now, write_bytes, write_json, write_text
from components.common.progress import say
from components.common.section import Summary
from components.common.store import repeat_on_conflict
from components.push.candidate import SAMPLES_FILE, Candidate, read_candidate
from components.push.config import PushConfig
from components.push.registry.registry import Champion, Decision, Registry, RegistryLocation, State, check_image_size
from components.push.verdict import CARD_FILE

CHAMPION_SAMPLES = "champion_samples.png"

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
    candidate, store = read_candidate(model, evaluation, validation), Registry(registry)
    summary, details, champion_samples = repeat_on_conflict(lambda: _decide_now(config, store, candidate), "Deciding again.")
    if summary.version:
        summary = summary.model_copy(update={"uri": store.version_location(summary.version)})
    say(f"{'not published' if summary.decision == 'kept' else summary.decision}: {summary.reason}")
    details["vertex_version"] = _update_vertex(config, store)
    with new_artifact(out, "push", config=config, inputs=candidate.inputs) as writer:
        write_json(writer.path / "decision.json", summary.model_dump(mode="json"))
        if champion_samples:  # copied for the report, which does not read the registry
            write_bytes(writer.path / CHAMPION_SAMPLES, champion_samples)
        if summary.decision == "published":  # copied for platforms that show it
            write_text(writer.path / CARD_FILE, _card(summary, candidate))
        writer.details = summary.model_dump(mode="json") | details
    return summary


def _card(summary: PushSummary, candidate: Candidate) -> str:
    """Return the model card of the published version, without the picture, which a lone Markdown file cannot show."""
    from components.push.card import model_cards

    model, evaluation = candidate.model, candidate.evaluation
    return model_cards(summary.version, model, evaluation, candidate.scores, summary.reason, b"")[CARD_FILE]


def _update_vertex(config: PushConfig, registry: Registry) -> str:
    """Return the champion's version on Vertex. Runs after every decision: an interrupted push may have left Vertex outdated."""
    if not config.vertex_model:
        return ""
    from components.push.vertex_model import update_vertex

    version = update_vertex(config.vertex_model, config.serving_image, registry)
    if version:
        say(f"the champion is {version} on Vertex AI")
    return version


def _decide_now(config: PushConfig, registry: Registry, candidate: Candidate) -> tuple[PushSummary, dict[str, Any], bytes]:
    """Decide in the present state of the registry; return outcome, details, and the champion's samples.

    Raises ConflictError when another process changed the state before the model could be published.
    """
    state = registry.state()
    champion = registry.champion(state)
    check_image_size(champion, registry.location, *(candidate.model.details[name] for name in ("image_size", "channels")))
    with registry.open_version(champion.version) if champion else contextlib.nullcontext() as folder:
        samples = (folder / SAMPLES_FILE).read_bytes() if folder else b""
        if earlier := _earlier_outcome(config, registry, state, champion, candidate):
            return earlier, {}, samples
        return *_decide(config, registry, state, champion, folder, candidate), samples


def _earlier_outcome(
    config: PushConfig, registry: Registry, state: State, champion: Champion | None, candidate: Candidate
) -> PushSummary | None:
    """Return the outcome if the model is in service, or was decided on and nothing that the decision depends on changed."""
    if champion is not None and champion.model_digest == candidate.model.digest:
        return _summary("unchanged", f"{champion.version} is already published.", champion.version, champion)
    earlier = registry.read_decision(candidate.model.digest)
    if earlier is None:
        return None
    if earlier.decision == "published":
        if champion is None or not registry.versions(state).get(earlier.version):
            return None  # the pointer or the version was removed: decide again
        reason = f"{earlier.version} is already published; {champion.version} has replaced it."
        return _summary("unchanged", reason, earlier.version, champion)
    current = (candidate.evaluation.digest, champion.digest if champion else "", config.rule())
    if (earlier.evaluation_digest, earlier.champion_digest, earlier.rule) != current:
        return None
    return _summary("unchanged", f"Already decided: {earlier.reason}", "", champion, earlier.champion_kid)


def _decide(
    config: PushConfig, registry: Registry, state: State, champion: Champion | None, folder: Path | None, candidate: Candidate
) -> tuple[PushSummary, dict[str, Any]]:
    """Decide, publish and record the decision; return the outcome and the details it is based on.

    `folder` is the champion's.
    """
    from components.push.gate import gate
    from components.push.registry.publish import write_version

    rescored = None
    if champion is not None and folder is not None:
        from components.push.gate.rescoring import rescore_champion

        say(f"scoring {champion.version} with the extractor and images of this evaluation")
        rescored = rescore_champion(candidate, champion.version, folder)
    verdict = gate.decide(config, candidate.scores, rescored, candidate.data_errors())
    details = {
        "champion_scores": rescored.scores if rescored else None,
        "evidence": rescored.evidence._asdict() if rescored else None,
        "checks": [check._asdict() for check in verdict.checks],
    }
    version, champion_kid = "", rescored.scores["kid"] if rescored else None
    if verdict.publish and not config.publish:
        # Not recorded: a later run that may publish this model must not take it for decided.
        reason = f"It passed the gate, but was not published, because push.publish is false. {verdict.reason}"
        return _summary("kept", reason, "", champion, champion_kid), details
    if verdict.publish:
        version = registry.version_of_model(candidate.model.digest, candidate.evaluation.digest, state)
        if version:  # of an interrupted push
            with registry.open_version(version):
                manifest, _ = registry.read_version(version)
        else:
            version, manifest = write_version(config, registry, candidate, verdict.reason)
        registry.set_champion(version, manifest, state, "push")
    summary = _summary("published" if verdict.publish else "kept", verdict.reason, version, champion, champion_kid)
    decision = Decision(
        **summary.model_dump(exclude={"uri"}),
        champion_digest=champion.digest if champion else "",
        model_digest=candidate.model.digest,
        evaluation_digest=candidate.evaluation.digest,
        rule=config.rule(),
        decided_at=now(),
    )
    registry.write_decision(decision)  # last: a record that says published means that version and pointer both exist
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
