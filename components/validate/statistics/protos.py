"""Statistics as tensorflow-metadata's DatasetFeatureStatisticsList, one dataset for each split: the format of TFDV.

This program writes these files and does not read them; they are for TFDV and other tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow_metadata.proto.v0 import path_pb2, statistics_pb2

from components.validate.statistics.statistics import SplitStatistics
from components.validate.statistics.tally import CHANNEL_BUCKETS, IMAGE_BUCKETS, LEVELS, Tally

BINARY_FILE, TEXT_FILE = "statistics.pb", "statistics.pbtxt"
KIND = statistics_pb2.FeatureNameStatistics


def to_proto(tallies: Mapping[str, Tally], statistics: Mapping[str, SplitStatistics]) -> Any:
    """Return the statistics of all splits: of the features of a record, and of features derived from its image."""
    proto = statistics_pb2.DatasetFeatureStatisticsList()
    for split, part in statistics.items():
        dataset = proto.datasets.add(name=split, num_examples=part.count)
        _add_bytes(dataset, part)
        _add_labels(dataset, tallies[split], part)
        _add_sizes(dataset, part)
        _add_brightness_and_contrast(dataset, tallies[split])
        _add_channels(dataset, tallies[split], part)
    return proto


def _add_bytes(dataset: Any, part: SplitStatistics) -> None:
    size = int(np.prod(part.shape))
    sizes = dict.fromkeys(("avg_num_bytes", "min_num_bytes", "max_num_bytes", "max_num_bytes_int"), size)
    _add(dataset, "image", KIND.BYTES, part.count, sizes)
    dataset.features[-1].custom_stats.add(name="near_blank_share", num=part.blank / part.count)
    _add(dataset, "id", KIND.BYTES, part.count, {})


def _add_labels(dataset: Any, tally: Tally, part: SplitStatistics) -> None:
    labels, images = (np.array(column) for column in zip(*sorted(tally.labels.items()), strict=True))
    mean = float(labels @ images / part.count)
    deviation = float(np.sqrt((labels - mean) ** 2 @ images / part.count))
    extremes = {"min": int(labels[0]), "max": int(labels[-1]), "num_zeros": tally.labels[0]}
    _add(dataset, "label", KIND.INT, part.count, {"mean": mean, "std_dev": deviation} | extremes)
    ranked = sorted(part.label_histogram.items(), key=lambda item: (-item[1], item[0]))
    length = sum(len(name) * count for name, count in ranked) / part.count
    names = _add(dataset, "label_name", KIND.STRING, part.count, {"unique": len(ranked), "avg_length": length})
    for rank, (name, count) in enumerate(ranked):
        names.top_values.add(value=name, frequency=count)
        names.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=name, sample_count=count)


def _add_sizes(dataset: Any, part: SplitStatistics) -> None:
    for name, side in (("height", part.source_height), ("width", part.source_width)):
        if side is not None:
            fields = {"mean": side.mean, "std_dev": side.deviation, "min": side.minimum, "max": side.maximum}
            _add(dataset, name, KIND.INT, side.known, fields, missing=part.count - side.known)
    for name, value in (("image_size", part.shape[0]), ("image_channels", part.shape[2])):
        _add(dataset, name, KIND.INT, part.count, dict.fromkeys(("mean", "min", "max", "median"), value))


def _add_brightness_and_contrast(dataset: Any, tally: Tally) -> None:
    for name, histogram, width in (
        ("brightness", tally.brightness, LEVELS / IMAGE_BUCKETS),
        ("contrast", tally.contrast, LEVELS / IMAGE_BUCKETS / 2),
    ):
        centres, present = (np.arange(IMAGE_BUCKETS) + 0.5) * width, np.flatnonzero(histogram)
        mean = float(histogram @ centres / tally.count)  # of the buckets' centres, since images are counted by bucket
        deviation = float(np.sqrt(histogram @ (centres - mean) ** 2 / tally.count))
        median = float(centres[np.searchsorted(np.cumsum(histogram), tally.count / 2)])
        extremes = {"min": float(present[0] * width), "max": float((present[-1] + 1) * width)}
        fields = {"mean": mean, "std_dev": deviation, "median": median}
        numbers = _add(dataset, name, KIND.FLOAT, tally.count, fields | extremes)
        _add_histogram(numbers, histogram, width)


def _add_channels(dataset: Any, tally: Tally, part: SplitStatistics) -> None:
    pixels = part.shape[0] * part.shape[1]
    for channel, levels in enumerate(tally.levels):
        present = np.flatnonzero(levels)
        median = float(np.searchsorted(np.cumsum(levels), levels.sum() / 2))
        fields = {"mean": part.mean[channel], "std_dev": part.deviation[channel], "median": median}
        extremes = {"min": int(present[0]), "max": int(present[-1]), "num_zeros": int(levels[0])}
        numbers = _add(dataset, f"channel_{channel}", KIND.INT, part.count, fields | extremes, values=pixels)
        _add_histogram(numbers, levels.reshape(CHANNEL_BUCKETS, -1).sum(axis=1), LEVELS / CHANNEL_BUCKETS)


def _add(
    dataset: Any, name: str, kind: int, present: int, fields: Mapping[str, float], *, missing: int = 0, values: int = 1
) -> Any:
    """Add a feature with `values` values in each of `present` examples; return its statistics, with these fields set."""
    feature = dataset.features.add(type=kind, path=path_pb2.Path(step=[name]))
    statistics = getattr(feature, {KIND.BYTES: "bytes_stats", KIND.STRING: "string_stats"}.get(kind, "num_stats"))
    common = {"num_non_missing": present, "num_missing": missing, "tot_num_values": present * values}
    common |= dict.fromkeys(("min_num_values", "max_num_values", "avg_num_values"), values)
    for message, content in ((statistics.common_stats, common), (statistics, fields)):
        for field, value in content.items():
            setattr(message, field, value)
    return statistics


def _add_histogram(numbers: Any, histogram: npt.NDArray[np.int64], width: float) -> None:
    proto = numbers.histograms.add(type=statistics_pb2.Histogram.STANDARD)
    for index, count in enumerate(histogram.tolist()):
        proto.buckets.add(low_value=index * width, high_value=(index + 1) * width, sample_count=count)
