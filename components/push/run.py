"""Carries out the verdict on a model: publishes it, or records why not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from components.common.artifacts import new_artifact, now, write_json, write_text
from components.common.numbered import repeat_on_conflict
from components.common.progress import say
from components.common.section import Summary
from components.gate.candidate import Candidate, read_candidate
from components.gate.judge import Judged, judge
from components.gate.verdict import Verdict, read_verdict
from components.push.config import PushConfig
from components.push.outcome import CARD_FILE
from components.registry.registry import Decision, Registry, RegistryLocation, State

# TensorFlow, Jinja2 and NumPy are imported where they are needed: a model that is not published needs none of them, unless it
# has to be judged again.


class PushSummary(Summary):
    """What was done. `champion` is the version the model was compared with, `uri` the location of the model's own version."""

    decision: Literal["published", "kept", "unchanged"]
    reason: str
    version: str
    uri: str
    champion: str
    champion_kid: float | None


def run(
    config: PushConfig,
    *,
    registry: RegistryLocation,
    model: Path,
    evaluation: Path,
    validation: Path,
    verdict: Path,
    out: Path,
) -> PushSummary:
    """Publish `model` into `registry` or not, as `verdict` says, and write the push artifact `out`.

    If another champion is in service than the one that the verdict compares with, because several runs publish at once, the
    model is judged again beside it, by the same rule; the push artifact then holds that verdict too.

    Raises ArtifactError when an input or the registry is damaged, when the inputs do not belong together, when the verdict is
    on other ones or when the load test fails. The old champion stays in service then.
    """
    candidate, store = read_candidate(model, evaluation, validation), Registry(registry)
    given = read_verdict(verdict)
    given.check_is_on(candidate.digests)
    summary, again = repeat_on_conflict(lambda: _carry_out(config, store, candidate, given), "Looking again.")
    if summary.version:
        summary = summary.model_copy(update={"uri": store.version_location(summary.version)})
    if summary.decision == "published":
        say(f"published as {summary.version}")
    else:
        say(f"{'not published' if summary.decision == 'kept' else summary.decision}: {summary.reason}")
    vertex_version = _update_vertex(config, store)
    with new_artifact(out, "push", config=config, inputs=candidate.inputs | {"verdict": verdict}) as writer:
        write_json(writer.path / "decision.json", summary.model_dump(mode="json"))
        if again:
            again.write(writer)
        if summary.decision == "published":  # copied for platforms that show it
            write_text(writer.path / CARD_FILE, _card(summary, candidate))
        writer.details = summary.model_dump(mode="json") | {"vertex_version": vertex_version, "judged_again": bool(again)}
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


def _carry_out(
    config: PushConfig, registry: Registry, candidate: Candidate, verdict: Verdict
) -> tuple[PushSummary, Judged | None]:
    """Carry out the verdict in the present state of the registry; return the outcome, and a second verdict if one was needed.

    Raises ConflictError when another process changed the state before the model could be published.
    """
    state, again = registry.state(), None
    in_service = state.pointer.version if state.pointer else "nothing"
    if verdict.champion_digest != (state.pointer.digest if state.pointer else ""):
        say(f"the verdict compares with {verdict.champion or 'nothing'}, but {in_service} is in service: judging again")
        again = judge(verdict.rule, registry, state, candidate)
        verdict = again.verdict
    decision: Literal["published", "kept", "unchanged"] = "published" if verdict.blessed else "kept"
    summary = PushSummary(
        decision="unchanged" if verdict.unchanged else decision,
        version=verdict.version,
        uri="",
        **verdict.model_dump(include={"reason", "champion", "champion_kid"}),
    )
    if verdict.unchanged:
        return summary, again
    if verdict.blessed and not config.publish:
        # Not recorded: a later run that may publish this model must not take it for decided.
        reason = f"The gate passed it, but it is not published, because push.publish is false. {verdict.reason}"
        return summary.model_copy(update={"decision": "kept", "reason": reason}), again
    if verdict.blessed:
        version = _publish(config, registry, state, candidate, verdict.reason)
        summary = summary.model_copy(update={"version": version})
    record = Decision(
        **summary.model_dump(exclude={"uri"}),
        champion_digest=verdict.champion_digest,
        model_digest=candidate.model.digest,
        evaluation_digest=candidate.evaluation.digest,
        **verdict.model_dump(include={"rule", "checks"}),
        decided_at=now(),
    )
    registry.write_decision(record)  # last: a record that says published means that version and pointer both exist
    return summary, again


def _publish(config: PushConfig, registry: Registry, state: State, candidate: Candidate, reason: str) -> str:
    """Put the model into service as a new version; return its name."""
    from components.push.publish import write_version

    version = registry.version_of_model(candidate.model.digest, candidate.evaluation.digest, state)
    if version:  # of an interrupted push
        with registry.open_version(version):
            manifest, _ = registry.read_version(version)
    else:
        version, manifest = write_version(config, registry, candidate, reason)
    registry.set_champion(version, manifest, state, "push")
    return version
