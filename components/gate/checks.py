"""The checks that a candidate must pass to be published; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.evaluate.metrics import table
from components.evaluate.metrics.metric import Metric
from components.evaluate.metrics.prdc import expected_coverage
from components.gate.config import GateConfig
from components.gate.evidence import Evidence
from components.gate.verdict import Check

# Copying: the share of pairs in which a sample is nearer to the training images than a held-out image is. It is 0.5 for an
# honest generator, and 0.92 for digits copied with noise of a sixth of the grey levels.
NEARER_LIMIT = 0.9
SIGNIFICANCE = 0.01
# KIDs are compared on a logarithmic scale: a thousandth of what useless images score counts as real images.
DECADES = 3


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
    than the champion's beyond noise and its coverage not much lower; without a champion, its precision, recall, coverage and
    KID are near enough to those of real images, and its KID is far from that of useless images.
    """
    common = (_data(data_errors), _memorization(config, candidate))
    if champion is None:
        return (*common, *_first(config, candidate))
    return (*common, _kid(config, candidate, champion), _coverage(config, candidate, champion))


def reason_of(checks: Sequence[Check]) -> str:
    """Return the sentences of the failed checks, or else what the passed ones compared."""
    failed = [check for check in checks if not check.passed]
    # Data and memorization are mentioned only if they failed: who reads that a model passed wants the other numbers.
    shown = failed or [check for check in checks if check.name not in ("data", "memorization")]
    sentences = " ".join(check.sentence for check in shown)
    if not shown[0].name.startswith("first_"):
        return sentences
    return f"First model of this registry. {sentences}" if failed else f"First model of this registry: {_limits(shown)}."


def _limits(checks: Sequence[Check]) -> str:
    """Return the score and the limit of each check of a first model, in short."""
    parts = []
    for check in checks:
        metric = _metric(check.name.removeprefix("first_"))
        value, limit = (metric.text({metric.name: check.numbers[key]}) for key in ("value", "limit"))
        parts.append(f"{metric.title} {value} ({'at most' if metric.name == 'kid' else 'at least'} {limit})")
    return ", ".join(parts)


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


def _first(config: GateConfig, candidate: Mapping[str, Any]) -> tuple[Check, ...]:
    """Compare a first model with real and with useless images: fidelity, diversity and distance, each by itself."""
    floor, useless, measured = candidate.get("floor") or {}, candidate.get("useless") or {}, candidate["provenance"]
    real_count = measured["real"]["count"]
    # The held-out images are often fewer than the samples, and fewer images cover less: so not what they score.
    coverage = expected_coverage(real_count, measured["samples"], measured["neighbours_k"])
    best = {"precision": floor.get("precision", 1.0), "recall": floor.get("recall", 1.0), "coverage": coverage}
    shares = tuple(_first_share(config, candidate, name, real) for name, real in best.items())
    return (*shares, _first_kid(config, candidate, useless)) if useless else shares


def _first_share(config: GateConfig, candidate: Mapping[str, Any], name: str, real: float) -> Check:
    value, limit = candidate[name], config.first_share * real
    shown, noise = _text(name, candidate), _text(name, candidate.get("ceiling") or {})
    sentence = (
        f"{name.capitalize()} {shown}: {f'noise scores {noise}, ' if noise else ''}real images {_text(name, {name: real})}; "
        f"a first model needs at least {_text(name, {name: limit})} (gate.first_share)."
    )
    return Check(f"first_{name}", value >= limit, sentence, {"value": value, "real": real, "limit": limit})


def _first_kid(config: GateConfig, candidate: Mapping[str, Any], useless: Mapping[str, Mapping[str, float]]) -> Check:
    nearest = min(useless, key=lambda name: useless[name]["kid"])
    worst = useless[nearest]["kid"]
    limit = max(worst, 0.0) * 10 ** (-DECADES * config.first_share)
    value = candidate["kid"]
    kids = {"noise": useless["noise"]["kid"], "real": (candidate.get("floor") or {}).get("kid")}
    shown = {name: _text("kid", {"kid": kid}) for name, kid in kids.items() if kid is not None}
    real = f"real images {shown['real']}, " if "real" in shown else ""
    sentence = (
        f"KID {_text('kid', candidate)}: noise scores {shown['noise']}, {real}and the best of the useless images, {nearest}, "
        f"{_text('kid', {'kid': worst})}; a first model needs at most {_text('kid', {'kid': limit})} (gate.first_share)."
    )
    numbers = {"value": value, "limit": limit, "nearest_useless": worst}
    return Check("first_kid", value <= limit or config.first_share == 0, sentence, numbers)


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
    return _metric(name).text(scores)


def _metric(name: str) -> Metric:
    return next(metric for metric in table.METRICS if metric.name == name)
