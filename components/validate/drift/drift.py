"""Distances between two snapshots, and the sampling noise of each; docs/validation.md derives the bounds.

The distributions come from SciPy. Its jensenshannon() is not used, because rounding makes it NaN for large histograms that are
nearly equal (tests/reference/test_drift.py).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from components.validate.anomalies import Distance
from components.validate.config import ValidateConfig
from components.validate.statistics.tally import CHANNEL_BUCKETS, Tally

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
MIN_IMAGES_A_BUCKET = 20  # in both snapshots together; with fewer, the χ² approximation underestimates the noise
MIN_SHARE_A_BUCKET = 1e-3  # of pixels


def measure(before: Tally, now: Tally, labels: tuple[dict[str, int], dict[str, int]], config: ValidateConfig) -> list[Distance]:
    """Return every distance between two tallies of images of one size; `labels` are the images of each label before and now."""
    chance = chance_of_each(config, now.channels)
    distances = [label_distance(*labels, chance, config), blank_rise(before, now, chance, config)]
    for name in ("brightness", "contrast"):
        a, b = pooled(getattr(before, name), getattr(now, name), MIN_IMAGES_A_BUCKET)
        distances.append(_histogram_distance(name, a, b, multinomial_noise(a, b, chance), config))
    return distances + [channel_distance(before, now, channel, chance, config) for channel in range(now.channels)]


def chance_of_each(config: ValidateConfig, channels: int) -> float:
    """Return the false-alarm probability of one distance: labels, blank, brightness, contrast, features, and each channel."""
    return config.false_alarms / (5 + channels)


def jensen_shannon_bits(before: npt.ArrayLike, now: npt.ArrayLike) -> float:
    """Return the Jensen-Shannon divergence of two histograms in bits, 0 to 1 (Lin 1991, equation 4.1 with equal weights)."""
    p, q = (np.asarray(counts, np.float64) / np.sum(counts) for counts in (before, now))
    middle = (p + q) / 2
    nats = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum() / 2
    return max(0.0, float(nats) / math.log(2))


def pooled(before: Counts, now: Counts, least: int) -> tuple[Counts, Counts]:
    """Return both histograms with adjacent buckets merged until each has at least `least` images in both together."""
    starts, images = [0], 0
    for index, count in enumerate((before + now).tolist()):
        if images >= least:
            starts.append(index)
            images = 0
        images += count
    if images < least and len(starts) > 1:
        starts.pop()  # too few are left: they go into the bucket before
    return np.add.reduceat(before, starts), np.add.reduceat(now, starts)


def multinomial_noise(before: Counts, now: Counts, chance: float) -> float:
    """Return the bound, in bits, that the divergence of two samples of independent images exceeds with probability `chance`."""
    buckets = int(((before + now) > 0).sum())
    return divergence_noise(np.full(max(0, buckets - 1), 1 / before.sum() + 1 / now.sum()), chance)


def divergence_noise(weights: Floats, chance: float) -> float:
    """Return the upper quantile, in bits, of a divergence that is Σ weights_i · χ²(1) / 8 in nats.

    The sum is approximated by a scaled χ² with the same mean and variance (Satterthwaite 1946).
    """
    weights = weights[weights > 0]
    if not weights.size:
        return 0.0
    scale = (weights**2).sum() / weights.sum()
    return float(stats.chi2.isf(chance, weights.sum() / scale, scale=scale)) / (8 * math.log(2))


def _histogram_distance(name: str, before: Counts, now: Counts, noise: float, config: ValidateConfig) -> Distance:
    value = jensen_shannon_bits(before, now)
    text = f"the {name.replace('_', ' ')} histogram moved by {value:.4f} bits of Jensen-Shannon divergence"
    return Distance(name, value, noise, config.max_histogram_drift, text)


def channel_distance(before: Tally, now: Tally, channel: int, chance: float, config: ValidateConfig) -> Distance:
    """Return the divergence of the grey levels of a channel.

    The pixels of one image are not independent, so the noise is computed from the covariance of the images' histograms (Rao
    and Scott 1981).
    """
    levels = [tally.levels[channel].reshape(CHANNEL_BUCKETS, -1).sum(axis=1) for tally in (before, now)]
    shares = [counts / counts.sum() for counts in levels]
    mean_share = (shares[0] + shares[1]) / 2
    used = mean_share >= MIN_SHARE_A_BUCKET
    covariance = _covariance_of_mean(before, shares[0], channel) + _covariance_of_mean(now, shares[1], channel)
    root = np.sqrt(mean_share[used])
    weights = np.linalg.eigvalsh(covariance[np.ix_(used, used)] / np.outer(root, root)).astype(np.float64)
    noise = divergence_noise(weights, chance)
    return _histogram_distance(f"channel_{channel}", levels[0][used], levels[1][used], noise, config)


def _covariance_of_mean(tally: Tally, share: Floats, channel: int) -> Floats:
    """Return the covariance of the buckets' shares, which are means over the images of a tally."""
    pixels = tally.levels[channel].sum() / tally.count
    covariance: Floats = (tally.products[channel] / (tally.count * pixels**2) - np.outer(share, share)) / tally.count
    return covariance


def label_distance(before: dict[str, int], now: dict[str, int], chance: float, config: ValidateConfig) -> Distance:
    """Return the L-infinity distance of the label shares; its noise is the largest of all labels' (Bonferroni)."""
    names = sorted({*before, *now})
    a, b = (np.array([counts.get(name, 0) for name in names], np.float64) for counts in (before, now))
    change = b / b.sum() - a / a.sum()
    at = int(np.abs(change).argmax())
    share = (a + b) / (a + b).sum()
    deviation = np.sqrt(share * (1 - share) * (1 / a.sum() + 1 / b.sum())).max()
    noise = float(stats.norm.isf(chance / (2 * len(names))) * deviation)
    value = abs(float(change[at]))
    text = (
        f"label {names[at]!r} went from {a[at] / a.sum():.1%} to {b[at] / b.sum():.1%} of the images,"
        f" an L-infinity distance of {value:.4f}"
    )
    return Distance("label_name", value, noise, config.max_label_drift, text)


def blank_rise(before: Tally, now: Tally, chance: float, config: ValidateConfig) -> Distance:
    """Return the rise of the near-blank share. Its noise is exact: given all blank images, those in `now` are binomial."""
    a, b = before.blank / before.count, now.blank / now.count
    blank = before.blank + now.blank
    most = float(stats.binom.isf(chance, blank, now.count / (before.count + now.count)))
    noise = max(0.0, most / now.count - (blank - most) / before.count)
    text = f"near-blank images went from {a:.2%} to {b:.2%}"
    rise = max(0.0, b - a)
    return Distance("image", rise, noise, config.max_blank_drift, text)
