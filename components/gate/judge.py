"""Judges a candidate beside the champion that a registry has in service."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from components.common.artifacts import ArtifactWriter, write_bytes, write_json
from components.common.progress import say
from components.gate.candidate import Candidate
from components.gate.config import GateConfig
from components.gate.verdict import CHAMPION_SAMPLES, VERDICT_FILE, Check, Verdict
from components.registry.registry import SAMPLES_FILE, Champion, Registry, State, check_image_size

# TensorFlow and NumPy are imported where they are needed: a model that was decided on before needs neither.


class Judged(NamedTuple):
    """A verdict, and the samples of the champion it compares with: a PNG, empty without a champion."""

    verdict: Verdict
    champion_samples: bytes

    def write(self, writer: ArtifactWriter) -> None:
        """Write both into an artifact."""
        write_json(writer.path / VERDICT_FILE, self.verdict.model_dump(mode="json"))
        if self.champion_samples:
            write_bytes(writer.path / CHAMPION_SAMPLES, self.champion_samples)


def judge(config: GateConfig, registry: Registry, state: State, candidate: Candidate) -> Judged:
    """Judge a candidate in a state of the registry, which is only read.

    Raises ArtifactError when the champion is damaged or the evaluation cannot be compared; ConfigError when the champion makes
    images of another size.
    """
    champion = registry.champion(state)
    check_image_size(champion, registry.location, *(candidate.model.details[name] for name in ("image_size", "channels")))
    with registry.open_version(champion.version) if champion else contextlib.nullcontext() as folder:
        samples = (folder / SAMPLES_FILE).read_bytes() if folder else b""
        found = _earlier(config, registry, state, champion, candidate) or _compare(config, champion, folder, candidate)
    common = {
        "champion": champion.version if champion else "",
        "champion_digest": champion.digest if champion else "",
        "champion_kid": champion.scores["kid"] if champion else None,
        "digests": candidate.digests,
        "rule": config.rule(),
    }
    return Judged(Verdict(**common | found), samples)


def _earlier(
    config: GateConfig, registry: Registry, state: State, champion: Champion | None, candidate: Candidate
) -> dict[str, Any]:
    """Return the verdict if the model is published, or was decided on and nothing that the decision depends on changed."""
    earlier = registry.read_decision(candidate.model.digest)
    same_scores = earlier is not None and earlier.evaluation_digest == candidate.evaluation.digest
    checks = tuple(Check(**check) for check in earlier.checks) if earlier and same_scores else ()
    if champion is not None and champion.model_digest == candidate.model.digest:
        reason = f"{champion.version} is already published."
        return {"blessed": True, "unchanged": True, "reason": reason, "version": champion.version, "checks": checks}
    if earlier is None:
        return {}
    if earlier.decision == "published":
        if champion is None or not registry.versions(state).get(earlier.version):
            return {}  # the pointer or the version was removed: judge again
        reason = f"{earlier.version} is already published; {champion.version} has replaced it."
        return {"blessed": True, "unchanged": True, "reason": reason, "version": earlier.version, "checks": checks}
    if not same_scores or (earlier.champion_digest, earlier.rule) != (champion.digest if champion else "", config.rule()):
        return {}
    reason, kid = f"Already decided: {earlier.reason}", earlier.champion_kid
    return {"blessed": False, "unchanged": True, "reason": reason, "champion_kid": kid, "checks": checks}


def _compare(config: GateConfig, champion: Champion | None, folder: Path | None, candidate: Candidate) -> dict[str, Any]:
    """Return the verdict from the scores of the candidate and of the champion, whose files are in `folder`."""
    from components.gate.checks import check_candidate, reason_of

    rescored = None
    if champion is not None and folder is not None:
        from components.gate.rescoring import rescore_champion

        say(f"scoring {champion.version} with the extractor and images of this evaluation")
        rescored = rescore_champion(candidate, champion.version, folder)
    checks = check_candidate(config, candidate.scores, rescored, candidate.data_errors())
    found = {"blessed": all(check.passed for check in checks), "reason": reason_of(checks), "checks": checks}
    if rescored is None:
        return found
    scores = dict(rescored.scores)
    return {**found, "champion_kid": scores["kid"], "champion_scores": scores, "evidence": rescored.evidence._asdict()}
