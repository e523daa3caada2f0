"""Whether a candidate is good enough to be published; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from components.push.config import PushConfig


class Verdict(NamedTuple):
    """Publish or not, and why, in words and numbers."""

    publish: bool
    reason: str


def judge(
    config: PushConfig, candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, champion_version: str = ""
) -> Verdict:
    """Return the verdict on a candidate's scores beside the champion's, which must be of the same provenance.

    A candidate that returns training images is refused whatever its KID: copying is the surest way to a good one. Else
    the first model is published, and a later one when its KID is lower by more than `noise_sigmas` standard errors of
    the difference, √(σ² + σ²): two generators of equal quality must not take turns by luck.
    """
    if candidate["memorization"] > config.max_memorization:
        return Verdict(
            False,
            f"{candidate['memorization']:.0%} of its samples lie nearer to a training image than 99% of held-out "
            f"images do; at most {config.max_memorization:.0%} may (push.max_memorization).",
        )
    if champion is None:
        return Verdict(True, f"It is the first model of this registry: KID {_kid(candidate)}.")
    noise = config.noise_sigmas * math.hypot(candidate["kid_std"], champion["kid_std"])
    better = candidate["kid"] + noise < champion["kid"]
    return Verdict(
        better,
        f"KID {_kid(candidate)} is {'' if better else 'not '}lower than {champion_version}'s {_kid(champion)} "
        f"by more than {noise:.4f}, {config.noise_sigmas:g} × the standard error of the difference.",
    )


def _kid(scores: Mapping[str, Any]) -> str:
    return f"{scores['kid']:.4f} ± {scores['kid_std']:.4f}"
