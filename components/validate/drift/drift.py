"""How far two snapshots differ, and how far two samples of one source would: docs/validation.md derives the bounds."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.validate.anomalies import Anomaly
from components.validate.config import ValidateConfig
from components.validate.statistics.tally import CHANNEL_BUCKETS, Tally

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
MIN_IMAGES_A_BUCKET = 20  # of both snapshots: below, the χ² approximation is too optimistic, so neighbours are pooled
MIN_SHARE_A_BUCKET = 1e-3  # of pixels
EXACT_UP_TO = 10_000  # images: above, the binomial distribution is normal enough


class Measure(NamedTuple):
    """One distance: `noise` is what it stays below for two samples of one source, but for a chance of `chance`."""

    feature: str
    reason: str
    value: float
    noise: float
    warn: float
    most: float
    text: str


def measure(before: Tally, now: Tally, labels: tuple[dict[str, int], dict[str, int]], config: ValidateConfig) -> list[Measure]:
    """Return every distance of two tallies (both splits together) of images of one size, `labels` those before and now."""
    chance = chance_of_each(config, now.channels)
    found = [label_distance(*labels, chance, config), blank_rise(before, now, chance, config)]
    for name in ("brightness", "contrast"):
        a, b = pooled(getattr(before, name), getattr(now, name), MIN_IMAGES_A_BUCKET)
        noise = multinomial_noise(a, b, chance)
        found.append(_histogram(name, a, b, noise, config))
    for channel in range(now.channels):
        found.append(channel_distance(before, now, channel, chance, config))
    return found


def chance_of_each(config: ValidateConfig, channels: int) -> float:
    """Return the chance of a false alarm of one distance: of labels, blank, brightness, contrast, features, each channel."""
    return config.false_alarms / (5 + channels)


def to_anomalies(measures: list[Measure]) -> list[Anomaly]:
    """Return an anomaly for each distance above both its noise and a limit: an error above `most`, else a warning."""
    anomalies = []
    for found in measures:
        severities = (("error", found.most), ("warning", found.warn))
        for severity, threshold in severities:
            limit = max(found.noise, threshold)
            if found.value > limit:
                text = f"{found.text} (allowed {limit:.4f}, of which sampling explains {found.noise:.4f})"
                anomalies.append(
                    Anomaly.model_validate(
                        {
                            "feature": found.feature, "reason": found.reason, "severity": severity, "short": "Drift",
                            "text": text, "value": found.value, "noise": found.noise, "limit": limit,
                        }
                    )
                )  # fmt: skip
                break
    return anomalies


def jensen_shannon_bits(before: npt.ArrayLike, now: npt.ArrayLike) -> float:
    """Return the Jensen-Shannon divergence of two histograms in bits, 0 to 1 (Lin 1991, equation 4.1 with equal weights)."""
    p, q = (np.asarray(counts, np.float64) / np.sum(counts) for counts in (before, now))
    middle = (p + q) / 2

    def relative_entropy(part: Floats) -> float:
        there = part > 0
        return float((part[there] * np.log2(part[there] / middle[there])).sum())

    return max(0.0, (relative_entropy(p) + relative_entropy(q)) / 2)


def pooled(before: Counts, now: Counts, least: float) -> tuple[Counts, Counts]:
    """Return both histograms with neighbouring buckets put together until each has `least` in both snapshots together."""
    groups: list[list[int]] = [[]]
    held = 0.0
    for index, count in enumerate((before + now).tolist()):
        groups[-1].append(index)
        held += count
        if held >= least:
            groups.append([])
            held = 0.0
    if len(groups) > 1:  # what is left over goes to the last full one
        rest = groups.pop()
        groups[-1] += rest
    a, b = (np.array([counts[group].sum() for group in groups]) for counts in (before, now))
    return a, b


def multinomial_noise(before: Counts, now: Counts, chance: float) -> float:
    """Return what the divergence of two samples of independent images exceeds with probability `chance` only, in bits."""
    buckets = int(((before + now) > 0).sum())
    weights = np.full(max(0, buckets - 1), 1 / before.sum() + 1 / now.sum())
    return divergence_noise(weights, chance)


def divergence_noise(weights: Floats, chance: float) -> float:
    """Return the upper quantile, in bits, of a divergence whose 8-fold in nats is the sum of weights_i · χ²(1).

    Satterthwaite (1946): it is taken for scale · χ²(freedom) of the same mean and variance.
    """
    weights = weights[weights > 0]
    if not weights.size:
        return 0.0
    scale = float((weights**2).sum() / weights.sum())
    freedom = float(weights.sum() ** 2 / (weights**2).sum())
    return scale * chi_squared_quantile(freedom, 1 - chance) / (8 * math.log(2))


def chi_squared_quantile(freedom: float, probability: float) -> float:
    """Return the quantile of χ² by Wilson and Hilferty (1931): within 4 % from 3 degrees of freedom on."""
    z, ninth = NormalDist().inv_cdf(probability), 2 / (9 * freedom)
    return freedom * max(0.0, 1 - ninth + z * math.sqrt(ninth)) ** 3


def _histogram(name: str, before: Counts, now: Counts, noise: float, config: ValidateConfig) -> Measure:
    value = jensen_shannon_bits(before, now)
    text = f"the {name.replace('_', ' ')} histogram moved by {value:.4f} bits of Jensen-Shannon divergence"
    reason = "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH"
    return Measure(name, reason, value, noise, config.warn_histogram_drift, config.max_histogram_drift, text)


def channel_distance(before: Tally, now: Tally, channel: int, chance: float, config: ValidateConfig) -> Measure:
    """Return the divergence of the grey levels of a channel; pixels of one image are no independent draws.

    So the noise comes from how much images differ from each other: the covariance of their histograms (Rao and Scott 1981).
    """
    levels = [tally.levels[channel].reshape(CHANNEL_BUCKETS, -1).sum(axis=1) for tally in (before, now)]
    shares = [counts / counts.sum() for counts in levels]
    share_of_both = (shares[0] + shares[1]) / 2
    kept = share_of_both >= MIN_SHARE_A_BUCKET
    covariance = _covariance_of_mean(before, channel, shares[0]) + _covariance_of_mean(now, channel, shares[1])
    root = np.sqrt(share_of_both[kept])
    weights = np.linalg.eigvalsh(covariance[np.ix_(kept, kept)] / np.outer(root, root)).astype(np.float64)
    noise = divergence_noise(weights, chance)
    return _histogram(f"channel_{channel}", levels[0][kept], levels[1][kept], noise, config)


def _covariance_of_mean(tally: Tally, channel: int, share: Floats) -> Floats:
    """Return the covariance of the shares of the buckets, means over the images of a tally."""
    pixels = tally.levels[channel].sum() / tally.count
    covariance: Floats = (tally.products[channel] / (tally.count * pixels**2) - np.outer(share, share)) / tally.count
    return covariance


def label_distance(before: dict[str, int], now: dict[str, int], chance: float, config: ValidateConfig) -> Measure:
    """Return the L-infinity distance of the shares of labels, and the noise of the one that has most (Bonferroni)."""
    names = sorted({*before, *now})
    a, b = (np.array([counts.get(name, 0) for name in names], np.float64) for counts in (before, now))
    change = b / b.sum() - a / a.sum()
    at = int(np.abs(change).argmax())
    share = (a + b) / (a + b).sum()
    deviation = np.sqrt(share * (1 - share) * (1 / a.sum() + 1 / b.sum())).max()
    noise = NormalDist().inv_cdf(1 - chance / (2 * len(names))) * float(deviation)
    text = (
        f"label {names[at]!r} went from {a[at] / a.sum():.1%} to {b[at] / b.sum():.1%} of the images,"
        f" an L-infinity distance of {abs(change[at]):.4f}"
    )
    return Measure(
        "label_name", "COMPARATOR_L_INFTY_HIGH", float(abs(change[at])), noise, config.warn_label_drift,
        config.max_label_drift, text,
    )  # fmt: skip


def blank_rise(before: Tally, now: Tally, chance: float, config: ValidateConfig) -> Measure:
    """Return the rise of the share of near-blank images; its noise is that of dividing all blank ones."""
    a, b = before.blank / before.count, now.blank / now.count
    most = most_by_chance(before.blank + now.blank, now.count / (before.count + now.count), chance)
    noise = most / now.count - (before.blank + now.blank - most) / before.count
    text = f"near-blank images went from {a:.2%} to {b:.2%}"
    return Measure(
        "image", "CUSTOM_VALIDATION", max(0.0, b - a), max(0.0, noise), config.warn_blank_drift, config.max_blank_drift, text
    )


def most_by_chance(draws: int, probability: float, chance: float) -> int:
    """Return the smallest k with P(X > k) ≤ chance for X binomial(draws, probability)."""
    if draws > EXACT_UP_TO:
        z = NormalDist().inv_cdf(1 - chance)
        return min(draws, math.ceil(draws * probability + z * math.sqrt(draws * probability * (1 - probability))))
    tail = 0.0
    for k in range(draws, 0, -1):
        ways = math.lgamma(draws + 1) - math.lgamma(k + 1) - math.lgamma(draws - k + 1)
        tail += math.exp(ways + k * math.log(probability) + (draws - k) * math.log1p(-probability))
        if tail > chance:
            return k
    return 0
