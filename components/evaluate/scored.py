"""Scores images against real images: what the evaluate step and `wgan-pipeline score` share; both get the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.images import grid, viewable_scale, write_png
from components.common.store import Location, store_at
from components.evaluate.baselines import measure_baselines
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor import AnyExtractor, Extractor
from components.evaluate.features.extractor_training import Labelled, extractor_for
from components.evaluate.metrics.memorization import worst_pairs
from components.evaluate.metrics.tiles import nearest_images
from components.evaluate.provenance import provenance
from components.evaluate.real_statistics import RealStatistics, real_statistics_of
from components.evaluate.reference_cache import cached_reference
from components.evaluate.scores import Measurement, Reference, Samples, measure, modes

GRID_COLUMNS, GRID_IMAGES = 8, 64
NEIGHBOURS = 5
PAIRS, PAIRS_A_ROW = 16, 4

Images = npt.NDArray[np.uint8]


class RealImages(NamedTuple):
    """Real images to compare with, held-out ones for memorization and the floor, the digest of both, and label names."""

    train: Labelled
    held_out: Labelled
    digest: str
    label_names: Sequence[str] = ()


class Scored(NamedTuple):
    """The scores of images uint8 [M, H, W, C], and what they were computed from."""

    measurement: Measurement
    images: Images
    samples: Samples
    real: RealImages
    reference: Reference
    statistics: RealStatistics
    extractor: AnyExtractor

    def as_json(self) -> dict[str, Any]:
        """Return the content of scores.json."""
        scores = self.measurement.summary.model_dump(mode="json")
        if self.samples.probabilities is None:
            return scores | {"modes": None}
        labels, predicted = self.real.train.labels, self.samples.probabilities.argmax(axis=1)
        return scores | {"modes": modes(labels[labels >= 0], predicted, list(map(str, self.real.label_names)))}

    def write_pictures(self, folder: Path, neighbour_rows: int) -> None:
        """Write samples.png, neighbours.png, and the nearest (worst_pairs.png) and farthest pairs of sample and real image.

        Raises ArtifactError.
        """
        images, scale = self.images, viewable_scale(self.images.shape[1])
        write_png(folder / "samples.png", grid(images[:GRID_IMAGES], GRID_COLUMNS, scale))
        nearest, _ = nearest_images(self.samples.features[:neighbour_rows], self.reference.train, NEIGHBOURS)
        cells = np.concatenate([images[:neighbour_rows, None], self.real.train.images[nearest]], axis=1)
        write_png(folder / "neighbours.png", grid(cells.reshape(-1, *images.shape[1:]), 1 + NEIGHBOURS, scale))
        _, of_samples, distances = self.measurement
        for name, order in (("worst_pairs.png", distances), ("farthest_pairs.png", -distances)):
            pairs = np.array(worst_pairs(order, of_samples, PAIRS))
            cells = np.stack([images[pairs[:, 0]], self.real.train.images[pairs[:, 1]]], axis=1)
            write_png(folder / name, grid(cells.reshape(-1, *images.shape[1:]), 2 * PAIRS_A_ROW, scale))


def score_images(
    config: EvaluateConfig,
    real: RealImages,
    draw: Callable[[], Images],
    work_dir: Location,
    *,
    dataset: Path | None = None,
    weights: str = "ema",
) -> Scored:
    """Return the scores of the config.samples images that `draw` returns; extractors are cached in `work_dir`.

    `dataset` is the artifact of the real images, if they have one, and `weights` says what drew the samples. Raises
    ArtifactError and ConfigError.
    """
    train, held_out, work = real.train, real.held_out, store_at(work_dir)
    with ThreadPoolExecutor(1) as background:
        # TensorFlow takes seconds to start, in the process that draws and in this one, so they start at the same time.
        drawing = background.submit(draw)
        extractor = extractor_for(config, dataset, real.digest, train, held_out, work)
        real_count = min(len(train.images), config.real_images)
        reference = Reference(extractor.features(train.images), extractor.features(held_out.images), real_count)
        images = drawing.result()
    samples = features_of(images, extractor)
    origin = provenance(config, extractor, real.digest, real_count, len(held_out.images), weights)
    cached = cached_reference(*reference, config, work)
    baselines = measure_baselines(config, reference, train.images, extractor, real.digest, work, cached.side)
    statistics = real_statistics_of(train.images, real_count, train.labels, extractor.settings.classes)
    measurement = measure(reference, samples, config, origin, real=statistics, baselines=baselines, cached=cached)
    return Scored(measurement, images, samples, real, reference, statistics, extractor)


def features_of(images: Images, extractor: AnyExtractor) -> Samples:
    """Return images uint8 [M, H, W, C] with their features, and class probabilities if the default extractor knows labels."""
    if not isinstance(extractor, Extractor) or not extractor.settings.classes:
        return Samples(extractor.features(images), images)
    from scipy.special import softmax  # imported here because SciPy takes a part of a second

    features, scores = extractor.features_and_scores(images)
    of_labels = scores[:, : extractor.settings.classes].astype(np.float64)
    return Samples(features, images, softmax(of_labels, axis=1))
