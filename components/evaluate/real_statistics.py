"""Statistics of real images for the metrics of pixels and classes; computed once and saved in the evaluation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import write_bytes
from components.common.errors import ArtifactError, first_line
from components.evaluate.features.extractor import Images
from components.evaluate.metrics import classes, colours, sharpness
from components.evaluate.metrics.checks import Floats

FILE = "real_statistics.npz"
AT_ONCE = 1000  # images in memory


class RealStatistics(NamedTuple):
    """Statistics of real images: sharpness [N], colour numbers [N, S], and class shares [K] (empty without labels)."""

    sharpness: Floats
    colours: Floats
    classes: Floats

    def save(self, folder: Path) -> None:
        """Write the three arrays as one .npz file. Raises ArtifactError."""
        stream = io.BytesIO()
        np.savez(stream, **self._asdict())
        write_bytes(folder / FILE, stream.getvalue())


def load_real_statistics(folder: Path) -> RealStatistics:
    """Read what `RealStatistics.save` wrote. Raises ArtifactError."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            return RealStatistics(*(arrays[name] for name in RealStatistics._fields))
    except (OSError, ValueError, KeyError) as error:
        problem = f"The statistics of real images in {folder} cannot be read: {first_line(error)}."
        raise ArtifactError(problem, "Run evaluate again.") from error


def real_statistics_of(images: Images, count: int, labels: npt.NDArray[np.int64], class_count: int) -> RealStatistics:
    """Return the statistics of the first `count` images uint8 [N, H, W, C] and of all labels [N] (negative: no label)."""
    known = labels[labels >= 0]
    shares = classes.class_shares(known, class_count) if class_count and len(known) else np.empty(0)
    large = min(images.shape[1:3]) >= sharpness.SMALLEST
    sharp, coloured = [], []
    for start in range(0, count, AT_ONCE):
        part = images[start : min(start + AT_ONCE, count)]
        sharp.append(sharpness.features_to_statistics(part) if large else np.zeros(len(part)))
        coloured.append(colours.features_to_statistics(part))
    return RealStatistics(np.concatenate(sharp), np.concatenate(coloured), shares)
