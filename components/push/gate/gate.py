"""Whether a candidate is good enough to be published; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.push.config import PushConfig
from components.push.gate.evidence import Evidence

MOST_NEARER = 0.9  # of pairs; 0.5 of an honest generator, 0.92 of digits copied with a sixth of the grey levels as noise
SIGNIFICANT = 0.01


class Check(NamedTuple):
    """One condition of the gate: whether it is met, and what was found beside what is needed."""

    name: str
    passed: bool
    sentence: str


class Verdict(NamedTuple):
    """Publish or not, and why, in words and numbers."""

    publish: bool
    reason: str
    checks: tuple[Check, ...]


class Opponent(NamedTuple):
    """The champion: its version, its scores by the candidate's measure, and how the candidate's KID compares."""

    version: str
    scores: Mapping[str, Any]
    evidence: Evidence


def judge(
    config: PushConfig, candidate: Mapping[str, Any], opponent: Opponent | None, data_errors: Sequence[str] = ()
) -> Verdict:
    """Return the verdict on a candidate's scores beside the champion's, which must be of the same provenance.

    Published is what meets every check: its data were accepted, it does not return training images, and its KID is better
    than the champion's beyond noise without losing coverage; or, where there is no champion, it is far enough on its way
    from something useless to real images. The reason is what failed, or else why it may be published.
    """
    checks = [_data(data_errors), _memorization(config, candidate)]
    if opponent is None:
        checks.append(_first(config, candidate))
    else:
        checks += [_kid(config, candidate, opponent), _coverage(config, candidate, opponent)]
    failed = [check.sentence for check in checks if not check.passed]
    # Data and memorization are worth a word only where they failed: the others hold what a decision is read for.
    return Verdict(not failed, " ".join(failed or [check.sentence for check in checks[2:]]), tuple(checks))


def _data(errors: Sequence[str]) -> Check:
    found = f"Its data were not accepted: {'; '.join(errors)}." if errors else "Its data were accepted."
    return Check("data", not errors, found)


def _memorization(config: PushConfig, candidate: Mapping[str, Any]) -> Check:
    # Whatever its KID: copying is the surest way to a good one.
    share = candidate["memorization"]
    nearer, p_value = candidate.get("memorization_nearer"), candidate.get("memorization_p")
    few = share <= config.max_memorization
    sentence = (
        f"{share:.0%} of its samples lie nearer to a training image than 99% of held-out images do; "
        f"at most {config.max_memorization:.0%} may (push.max_memorization)."
    )
    if nearer is None or p_value is None:
        return Check("memorization", few, sentence)
    # A generator of typical images is significantly nearer too, so the p-value alone refuses no one.
    copied = nearer > MOST_NEARER and p_value < SIGNIFICANT
    tested = (
        f"Of a sample and a held-out image the sample is nearer to the training images in {nearer:.0%} of pairs, "
        f"{'p < 0.001' if p_value < 0.001 else f'p = {p_value:.3f}'} (Mann-Whitney); "
        f"above {MOST_NEARER:.0%} with p < {SIGNIFICANT:g} it counts as copying."
    )
    return Check("memorization", few and not copied, f"{sentence} {tested}")


def _first(config: PushConfig, candidate: Mapping[str, Any]) -> Check:
    first = f"It is the first model of this registry: KID {_with_error(candidate)}"
    floor, ceiling = ((candidate.get(name) or {}).get("kid") for name in ("floor", "ceiling"))
    if floor is None or ceiling is None or ceiling <= floor:
        return Check("first", True, f"{first}; no floor and ceiling are known to hold it against.")
    share = (ceiling - candidate["kid"]) / (ceiling - floor)
    passed = share >= config.first_share
    sentence = (
        f"{first}, which is {share:.0%} of the way from something useless ({ceiling:.4f}) to real images ({floor:.4f}); "
        f"{config.first_share:.0%} are needed (push.first_share)."
    )
    return Check("first", passed, sentence)


def _kid(config: PushConfig, candidate: Mapping[str, Any], opponent: Opponent) -> Check:
    evidence = opponent.evidence
    sentence = (
        f"Its KID {_with_error(candidate)} is lower than {opponent.version}'s {_with_error(opponent.scores)} "
        f"in {evidence.share_better:.1%} of {evidence.replicates:,} resamplings of the same real images and of the samples; "
        f"{config.confidence:.1%} are needed (push.confidence)."
    )
    return Check("kid", evidence.difference > 0 and evidence.share_better >= config.confidence, sentence)


def _coverage(config: PushConfig, candidate: Mapping[str, Any], opponent: Opponent) -> Check:
    ours, theirs = candidate["coverage"], opponent.scores["coverage"]
    passed = ours >= theirs - config.coverage_margin
    sentence = (
        f"Its coverage {ours:.3f} is {'not ' if passed else ''}below {opponent.version}'s {theirs:.3f} "
        f"by more than {config.coverage_margin:g} (push.coverage_margin)."
    )
    return Check("coverage", passed, sentence)


def _with_error(scores: Mapping[str, Any]) -> str:
    kid = f"{scores['kid']:.4f}"
    return f"{kid.removeprefix('-') if float(kid) == 0 else kid} ± {scores['kid_std']:.4f}"
