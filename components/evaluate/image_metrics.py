"""The scores that need more than features: what a classifier sees in samples, and their pixels beside those of real images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import write_bytes
from components.common.errors import ArtifactError, first_line
from components.evaluate.features.extractor import AnyExtractor, Extractor, Floats32, Images
from components.evaluate.metrics import class_coverage, class_entropy, colours, sharpness
from components.evaluate.metrics.products import Floats

FILE = "real_others.npz"
AT_ONCE = 1000  # images in memory
SMALLEST = 3  # pixels: the Laplacian needs a neighbour on each side


class RealOthers(NamedTuple):
    """Of real images: each one's sharpness [N], colour numbers [N, S], and class shares [K], empty without labels."""

    sharpness: Floats
    colours: Floats
    classes: Floats

    def save(self, folder: Path) -> None:
        """Write the three arrays as one .npz file. Raises ArtifactError."""
        stream = io.BytesIO()
        np.savez(stream, **self._asdict())
        write_bytes(folder / FILE, stream.getvalue())


def load_real_others(folder: Path) -> RealOthers:
    """Read what `RealOthers.save` wrote. Raises ArtifactError."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            return RealOthers(*(arrays[name] for name in RealOthers._fields))
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder} holds no numbers of real images: {first_line(error)}.", "Run evaluate again.") from error


def look_at_real(images: Images, count: int, labels: npt.NDArray[np.int64], classes: int) -> RealOthers:
    """Return the numbers of the first `count` real images uint8 [N, H, W, C], and of the labels [N] of all; below 0: none."""
    known = labels[labels >= 0]
    shares = class_coverage.features_to_statistics(known, classes) if classes and len(known) else np.empty(0)
    large = min(images.shape[1:3]) >= SMALLEST
    sharp, coloured = [], []
    for start in range(0, count, AT_ONCE):
        part = images[start : min(start + AT_ONCE, count)]
        sharp.append(sharpness.features_to_statistics(part) if large else np.zeros(len(part)))
        coloured.append(colours.features_to_statistics(part))
    return RealOthers(np.concatenate(sharp), np.concatenate(coloured), shares)


def score_others(
    real: RealOthers, samples: npt.NDArray[np.uint8], fake_features: Floats32, extractor: AnyExtractor
) -> dict[str, Any]:
    """Return these scores of samples uint8 [M, H, W, C] by the names of EvaluateSummary."""
    scores: dict[str, Any] = {}
    if min(samples.shape[1:3]) >= SMALLEST:
        sharp = sharpness.statistics_to_metric(real.sharpness, sharpness.features_to_statistics(samples))
        scores |= {"sharpness_ratio": sharp.ratio, "sharpness_distance": sharp.distance}
    colour = colours.statistics_to_metric(real.colours, colours.features_to_statistics(samples))
    scores |= {"colour_distance": colour.distance, "colour_furthest": colour.furthest}
    if len(real.classes) and isinstance(extractor, Extractor):
        seen = extractor.classes_of(fake_features)
        reached = class_coverage.statistics_to_metric(
            real.classes, class_coverage.features_to_statistics(seen, len(real.classes))
        )
        scores |= {"classes_covered": reached.covered, "class_imbalance": reached.imbalance}
        scores["class_score"] = class_entropy.compute(probabilities_of(extractor, fake_features))
    return scores


def probabilities_of(extractor: Extractor, features: Floats32) -> Floats:
    """Return the class probabilities that a classifier gives to rows of its features: float64 [N, K]."""
    kernel, bias = (array.astype(np.float64) for array in extractor.weights[-2:])
    scores = (features / np.float32(extractor.settings.scale)) @ kernel + bias
    scores -= scores.max(axis=1, keepdims=True)
    powers = np.exp(scores)
    probabilities: Floats = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
