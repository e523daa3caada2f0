"""Statistics as tensorflow-metadata's DatasetFeatureStatisticsList, one dataset a split, as TFDV writes and reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow_metadata.proto.v0 import path_pb2, statistics_pb2

from components.dataset.records import NO_LABEL
from components.validate.statistics.statistics import SplitStatistics
from components.validate.statistics.tally import CHANNEL_BUCKETS, LEVELS, LOOK_BUCKETS, Tally

BINARY_FILE, TEXT_FILE = "statistics.pb", "statistics.pbtxt"
KIND = statistics_pb2.FeatureNameStatistics


def to_proto(tallies: Mapping[str, Tally], statistics: Mapping[str, SplitStatistics]) -> Any:
    """Return the statistics of all splits: of the features of a record, and of what is derived from its image.

    Brightness and contrast are known by bucket, so their deviation is that of the buckets' centres.
    """
    proto = statistics_pb2.DatasetFeatureStatisticsList()
    for split, part in statistics.items():
        _add_split(proto.datasets.add(name=split, num_examples=part.count), tallies[split], part)
    return proto


def _add_split(dataset: Any, tally: Tally, part: SplitStatistics) -> None:
    height, width, channels = part.shape
    image = _feature(dataset, "image", KIND.BYTES, part.count).bytes_stats
    image.avg_num_bytes = image.min_num_bytes = image.max_num_bytes = height * width * channels
    image.max_num_bytes_int = height * width * channels
    share = dataset.features[-1].custom_stats.add(name="near_blank_share")
    share.num = part.blank / part.count
    _feature(dataset, "id", KIND.BYTES, part.count)
    _add_labels(dataset, tally, part)
    for name, side in (("height", part.source_height), ("width", part.source_width)):
        if side is not None:
            numbers = _feature(dataset, name, KIND.INT, side.known, part.count).num_stats
            numbers.mean, numbers.std_dev, numbers.min, numbers.max = side.mean, side.deviation, side.minimum, side.maximum
    for name, value in (("image_size", height), ("image_channels", channels)):
        numbers = _feature(dataset, name, KIND.INT, part.count).num_stats
        numbers.mean = numbers.min = numbers.max = numbers.median = value
    for name, histogram, bucket in (
        ("brightness", tally.brightness, LEVELS / LOOK_BUCKETS),
        ("contrast", tally.contrast, LEVELS / LOOK_BUCKETS / 2),
    ):
        numbers = _feature(dataset, name, KIND.FLOAT, part.count).num_stats
        centres = (np.arange(LOOK_BUCKETS) + 0.5) * bucket
        numbers.mean = float(histogram @ centres / part.count)
        numbers.std_dev = float(np.sqrt(histogram @ (centres - numbers.mean) ** 2 / part.count))
        there = np.flatnonzero(histogram)
        numbers.min, numbers.max = float(there[0] * bucket), float((there[-1] + 1) * bucket)
        numbers.median = float(centres[np.searchsorted(np.cumsum(histogram), part.count / 2)])
        _add_histogram(numbers, histogram, bucket)
    _add_channels(dataset, tally, part)


def _add_channels(dataset: Any, tally: Tally, part: SplitStatistics) -> None:
    pixels = part.shape[0] * part.shape[1]
    for channel, levels in enumerate(tally.levels):
        feature = _feature(dataset, f"channel_{channel}", KIND.INT, part.count, values=pixels)
        numbers, present = feature.num_stats, np.flatnonzero(levels)
        numbers.mean, numbers.std_dev = part.mean[channel], part.deviation[channel]
        numbers.min, numbers.max, numbers.num_zeros = int(present[0]), int(present[-1]), int(levels[0])
        numbers.median = float(np.searchsorted(np.cumsum(levels), levels.sum() / 2))
        _add_histogram(numbers, levels.reshape(CHANNEL_BUCKETS, -1).sum(axis=1), LEVELS / CHANNEL_BUCKETS)


def _add_labels(dataset: Any, tally: Tally, part: SplitStatistics) -> None:
    labels = {label: count for label, count in tally.labels.items() if label != NO_LABEL}
    count = sum(tally.labels.values())
    numbers = _feature(dataset, "label", KIND.INT, count).num_stats
    values, weights = np.array(sorted(tally.labels)), np.array([tally.labels[label] for label in sorted(tally.labels)])
    numbers.mean = float(values @ weights / count)
    numbers.std_dev = float(np.sqrt((values - numbers.mean) ** 2 @ weights / count))
    numbers.min, numbers.max, numbers.num_zeros = int(values[0]), int(values[-1]), labels.get(0, 0)
    words = _feature(dataset, "label_name", KIND.STRING, count).string_stats
    ranked = sorted(part.label_histogram.items(), key=lambda item: (-item[1], item[0]))
    words.unique = len(ranked)
    words.avg_length = sum(len(name) * images for name, images in ranked) / count
    for rank, (name, images) in enumerate(ranked):
        words.top_values.add(value=name, frequency=images)
        words.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=name, sample_count=images)


def _feature(dataset: Any, name: str, kind: int, present: int, count: int = 0, values: int = 1) -> Any:
    """Add a feature that `present` of `count` examples (0: all) have `values` of, and return it."""
    feature = dataset.features.add(type=kind)
    feature.path.CopyFrom(path_pb2.Path(step=[name]))
    which = {KIND.BYTES: "bytes_stats", KIND.STRING: "string_stats"}.get(kind, "num_stats")
    common = getattr(feature, which).common_stats
    common.num_non_missing, common.num_missing = present, (count or present) - present
    common.min_num_values = common.max_num_values = values
    common.avg_num_values, common.tot_num_values = values, present * values
    return feature


def _add_histogram(numbers: Any, histogram: npt.NDArray[np.int64], bucket: float) -> None:
    proto = numbers.histograms.add(type=statistics_pb2.Histogram.STANDARD)
    for index, count in enumerate(histogram.tolist()):
        proto.buckets.add(low_value=index * bucket, high_value=(index + 1) * bucket, sample_count=count)
