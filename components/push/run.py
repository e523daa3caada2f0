"""Publishes a model when it beats the champion, or records why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from components.common.artifacts import MANIFEST, Manifest, new_artifact, now, read_manifest, write_bytes, write_json
from components.common.errors import ArtifactError
from components.common.progress import say
from components.common.section import Summary
from components.push.config import PushConfig
from components.push.registry.location import Place, location_of, opened_to_change
from components.push.registry.registry import (
    SAMPLES_FILE,
    SCORES_FILE,
    VERSIONS,
    Champion,
    Decision,
    OvertakenError,
    check_image_size,
    point_to,
    read_champion,
    read_decision,
    read_pointer,
    remove_what_was_cut_off,
    version_of_model,
    write_decision,
)

CHAMPION_SAMPLES = "champion_samples.png"
TURNS = 3  # that a push decides anew because another one was quicker

# No TensorFlow, Jinja2 or NumPy up here: the answer to a model that was decided on before must come at once.


class PushSummary(Summary):
    """What was decided; `champion` is the version the model was compared with, `uri` where its own version lies."""

    decision: Literal["published", "kept", "unchanged"]
    reason: str
    version: str
    uri: str
    champion: str
    champion_kid: float | None


def run(config: PushConfig, *, registry: Place, model: Path, evaluation: Path, validation: Path, out: Path) -> PushSummary:
    """Decide on `model` by its `evaluation`, publish it into `registry` or not, and write the push artifact `out`.

    `registry` is a folder or an address. Raises ArtifactError when an input or the registry is damaged, when the inputs do
    not belong together or when the load test fails, ConfigError when the champion makes images of another size; the old
    champion stays in service then.
    """
    inputs = {"model": model, "evaluation": evaluation, "validation": validation}
    manifests = {name: read_manifest(path, name) for name, path in inputs.items()}
    _check_they_belong_together(manifests)
    for turn in range(1, TURNS + 1):
        try:
            summary, evidence, champion_samples = _settle(config, registry, inputs, manifests)
            break
        except OvertakenError as error:
            if turn == TURNS:
                raise
            say(f"{error.problem} Deciding again.")
    if summary.version:
        summary = summary.model_copy(update={"uri": location_of(registry, summary.version)})
    say(f"{summary.decision}: {summary.reason}")
    vertex_version = _tell_vertex(config, registry)
    with new_artifact(out, "push", config=config, inputs=inputs) as writer:
        write_json(writer.path / "decision.json", summary.model_dump(mode="json"))
        if champion_samples:  # the report shows them, wherever the registry is
            write_bytes(writer.path / CHAMPION_SAMPLES, champion_samples)
        writer.details = summary.model_dump(mode="json") | evidence | {"vertex_version": vertex_version}
    return summary


def _settle(
    config: PushConfig, registry: Place, inputs: dict[str, Path], manifests: dict[str, Manifest]
) -> tuple[PushSummary, dict[str, Any], bytes]:
    """Decide as the registry is now; return the outcome, what it rests on, and the champion's grid of samples."""
    with opened_to_change(registry, model_digest=manifests["model"].digest) as place:
        remove_what_was_cut_off(place)
        champion = read_champion(place)
        samples = b""
        if champion is not None:
            check_image_size(champion, *(manifests["model"].details[name] for name in ("image_size", "channels")))
            samples = (champion.path / SAMPLES_FILE).read_bytes()
        earlier = _earlier(config, place, champion, manifests)
        summary, evidence = (earlier, {}) if earlier else _decide(config, place, champion, inputs, manifests)
        return summary, evidence, samples


def _tell_vertex(config: PushConfig, registry: Place) -> str:
    """Whatever was decided: a push that was cut off may have left Vertex behind the registry."""
    if not config.vertex_model:
        return ""
    from components.push.vertex_model import tell_vertex

    version = tell_vertex(config.vertex_model, config.serving_image, registry)
    if version:
        say(f"Vertex has the champion as {version}")
    return version


def _check_they_belong_together(manifests: dict[str, Manifest]) -> None:
    evaluation = manifests["evaluation"]
    if evaluation.inputs["model"] != manifests["model"].digest:
        raise ArtifactError("The evaluation is of another model.", "Run evaluate on this model.")
    if evaluation.inputs["dataset"] not in manifests["validation"].inputs.values():
        raise ArtifactError(
            "The validation is of another dataset than the evaluation.", "Run validate on the dataset of this model."
        )


def _earlier(
    config: PushConfig, registry: Path, champion: Champion | None, manifests: dict[str, Manifest]
) -> PushSummary | None:
    """Return the outcome when this model is in service, or was decided on and nothing the decision rests on changed."""
    model_digest = manifests["model"].digest
    if champion is not None and champion.model_digest == model_digest:
        return _summary("unchanged", f"{champion.version} is already published.", champion.version, champion)
    earlier = read_decision(registry, model_digest)
    if earlier is None:
        return None
    if earlier.decision == "published":
        if champion is None or not (registry / VERSIONS / earlier.version / MANIFEST).is_file():
            return None  # someone has removed the pointer or the version: decide again
        reason = f"{earlier.version} is already published; {champion.version} has replaced it."
        return _summary("unchanged", reason, earlier.version, champion)
    rests_on = (earlier.evaluation_digest, earlier.champion_digest, earlier.rule)
    champion_digest = champion.digest if champion else ""
    if rests_on != (manifests["evaluation"].digest, champion_digest, config.rule()):
        return None
    return _summary("unchanged", f"Already decided: {earlier.reason}", "", champion, earlier.champion_kid)


def _decide(
    config: PushConfig,
    registry: Path,
    champion: Champion | None,
    inputs: dict[str, Path],
    manifests: dict[str, Manifest],
) -> tuple[PushSummary, dict[str, Any]]:
    """Decide, publish and record; return the outcome and what it rests on."""
    from components.push.gate.gate import Opponent, judge

    scores = json.loads((inputs["evaluation"] / SCORES_FILE).read_bytes())
    opponent = None
    if champion is not None:
        from components.push.gate.rescoring import measure_champion

        say(f"scoring {champion.version} beside this model, by the same measure")
        opponent = Opponent(champion.version, *measure_champion(inputs, scores["provenance"], champion.path))
    verdict = judge(config, scores, opponent, _data_errors(inputs["validation"]))
    version = _publish(config, registry, inputs, manifests, scores, verdict.reason) if verdict.publish else ""
    champion_kid = opponent.scores["kid"] if opponent else None
    decision: Literal["published", "kept"] = "published" if verdict.publish else "kept"
    # Last of all: a record that says published means that version and pointer are both there.
    write_decision(
        registry,
        Decision(
            decision=decision,
            reason=verdict.reason,
            version=version,
            champion=champion.version if champion else "",
            champion_digest=champion.digest if champion else "",
            champion_kid=champion_kid,
            model_digest=manifests["model"].digest,
            evaluation_digest=manifests["evaluation"].digest,
            rule=config.rule(),
            decided_at=now(),
        ),
    )
    evidence = {
        "champion_scores": opponent.scores if opponent else None,
        "evidence": opponent.evidence._asdict() if opponent else None,
        "checks": [check._asdict() for check in verdict.checks],
    }
    return _summary(decision, verdict.reason, version, champion, champion_kid), evidence


def _data_errors(validation: Path) -> list[str]:
    """Return the anomalies that make the data unfit, unless the validation says why they were accepted.

    Raises ArtifactError when its files cannot be read.
    """
    if not (validation / "anomalies.json").exists():
        return []
    try:
        anomalies = json.loads((validation / "anomalies.json").read_bytes())
        accepted = json.loads((validation / "comparison.json").read_bytes())["why"]
        errors = [str(anomaly["text"]).rstrip(".") for anomaly in anomalies if anomaly["severity"] == "error"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{validation} cannot be read: {error}.", "Run validate again.") from error
    return [] if accepted else errors


def _publish(
    config: PushConfig,
    registry: Path,
    inputs: dict[str, Path],
    manifests: dict[str, Manifest],
    scores: dict[str, Any],
    reason: str,
) -> str:
    model, evaluation = manifests["model"], manifests["evaluation"]
    version = version_of_model(registry, model.digest, evaluation.digest)
    if version is None:
        from components.push.registry.publish import write_version

        version = write_version(config, registry, inputs, model, evaluation, scores, reason)
    point_to(registry, version, read_pointer(registry))
    return version


def _summary(
    decision: Literal["published", "kept", "unchanged"],
    reason: str,
    version: str,
    champion: Champion | None,
    champion_kid: float | None = None,
) -> PushSummary:
    if champion is not None and champion_kid is None:
        champion_kid = champion.scores["kid"]
    return PushSummary(
        decision=decision,
        reason=reason,
        version=version,
        uri="",
        champion=champion.version if champion else "",
        champion_kid=champion_kid,
    )
