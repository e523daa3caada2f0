"""The checks that a candidate must pass to be published; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.evaluate.metrics import table
from components.gate.config import GateConfig
from components.gate.evidence import Evidence
from components.gate.verdict import Check

# Copying: the share of pairs in which a sample is nearer to the training images than a held-out image is. It is 0.5 for an
# honest generator, and 0.92 for digits copied with noise of a sixth of the grey levels.
NEARER_LIMIT = 0.9
SIGNIFICANCE = 0.01


class RescoredChampion(NamedTuple):
    """The champion: its version, its scores with the candidate's extractor and images, and how the KIDs compare."""

    version: str
    scores: Mapping[str, Any]
    evidence: Evidence


def check_candidate(
    config: GateConfig, candidate: Mapping[str, Any], champion: RescoredChampion | None, data_errors: Sequence[str] = ()
) -> tuple[Check, ...]:
    """Return the checks of a candidate's scores; the champion's must be of the same provenance.

    A candidate may be published if it passes all: its data was accepted; it does not copy training images; its KID is better
    than the champion's beyond noise and its coverage not much lower; without a champion, its KID is far enough from that of
    noise.
    """
    common = (_data(data_errors), _memorization(config, candidate))
    if champion is None:
        return (*common, _first(config, candidate))
    return (*common, _kid(config, candidate, champion), _coverage(config, candidate, champion))


def reason_of(checks: Sequence[Check]) -> str:
    """Return the sentences of the failed checks, or else those of the passed ones."""
    failed = [check.sentence for check in checks if not check.passed]
    # Data and memorization are mentioned only if they failed: who reads that a model passed wants the other numbers.
    return " ".join(failed or [check.sentence for check in checks if check.name not in ("data", "memorization")])


def _data(errors: Sequence[str]) -> Check:
    sentence = f"The data was not accepted: {'; '.join(errors)}." if errors else "The data was accepted."
    return Check("data", not errors, sentence, {"errors": len(errors)})


def _memorization(config: GateConfig, candidate: Mapping[str, Any]) -> Check:
    # Checked whatever the KID is: copying training images gives a good one.
    share, nearer, p_value = candidate["memorization"], candidate.get("memorization_nearer"), candidate.get("memorization_p")
    passed = share <= config.max_memorization
    sentence = (
        f"{share:.0%} of the samples are nearer to a training image than 99% of held-out images are; "
        f"the limit is {config.max_memorization:.0%} (gate.max_memorization)."
    )
    numbers = {"share": share, "limit": config.max_memorization}
    if nearer is not None and p_value is not None:
        numbers |= {"nearer": nearer, "nearer_limit": NEARER_LIMIT, "p": p_value}
        # The p-value alone proves nothing: samples of an honest generator are typical images, hence significantly nearer too.
        passed = passed and not (nearer > NEARER_LIMIT and p_value < SIGNIFICANCE)
        sentence += (
            f" A sample is nearer to the training images than a held-out image in {nearer:.0%} of pairs, "
            f"{'p < 0.001' if p_value < 0.001 else f'p = {p_value:.3f}'} (Mann-Whitney); "
            f"above {NEARER_LIMIT:.0%} with p < {SIGNIFICANCE:g} it counts as copying."
        )
    return Check("memorization", passed, sentence, numbers)


def _first(config: GateConfig, candidate: Mapping[str, Any]) -> Check:
    kid = f"First model of this registry, KID {_text('kid', candidate)}"
    floor, ceiling = ((candidate.get(name) or {}).get("kid") for name in ("floor", "ceiling"))
    if floor is None or ceiling is None or ceiling <= floor:
        sentence = f"{kid}; there are no scores of noise and of real images to compare with."
        return Check("first", True, sentence, {"kid": candidate["kid"]})
    share = (ceiling - candidate["kid"]) / (ceiling - floor)
    limit = ceiling - config.first_share * (ceiling - floor)
    noise, real, most = (_text("kid", {"kid": value}) for value in (ceiling, floor, limit))
    sentence = f"{kid}: noise scores {noise}, real images {real}; the limit is {most} (gate.first_share)."
    numbers = {"kid": candidate["kid"], "noise": ceiling, "real": floor, "limit": limit}
    return Check("first", share >= config.first_share, sentence, numbers)


def _kid(config: GateConfig, candidate: Mapping[str, Any], champion: RescoredChampion) -> Check:
    evidence = champion.evidence
    sentence = (
        f"KID {_text('kid', candidate)} is better than {champion.version}'s {_text('kid', champion.scores)} "
        f"in {evidence.share_better:.1%} of {evidence.replicates:,} bootstrap resamplings; "
        f"{config.confidence:.1%} are required (gate.confidence)."
    )
    passed = evidence.difference > 0 and evidence.share_better >= config.confidence
    numbers = {
        "value": candidate["kid"],
        "champion": champion.scores["kid"],
        "share_better": evidence.share_better,
        "required": config.confidence,
    }
    return Check("kid", passed, sentence, numbers)


def _coverage(config: GateConfig, candidate: Mapping[str, Any], champion: RescoredChampion) -> Check:
    passed = candidate["coverage"] >= champion.scores["coverage"] - config.coverage_margin
    sentence = (
        f"Coverage {_text('coverage', candidate)} is {'at most' if passed else 'more than'} {config.coverage_margin:g} "
        f"below {champion.version}'s {_text('coverage', champion.scores)} (gate.coverage_margin)."
    )
    numbers = {"value": candidate["coverage"], "champion": champion.scores["coverage"], "margin": config.coverage_margin}
    return Check("coverage", passed, sentence, numbers)


def _text(name: str, scores: Mapping[str, Any]) -> str:
    return next(metric for metric in table.METRICS if metric.name == name).text(scores)
