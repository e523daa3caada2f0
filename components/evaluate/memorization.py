"""The share of samples that lie nearer to a training image than real images do.

Real images that were held out cannot have been copied. The 1st percentile of their distances to the nearest training
image is therefore a distance that 1 % of honest images undercut: a generator that does not memorise scores about 0.01,
one that returns training images scores 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.evaluate.products import Floats, as_features, nearest_distances

PERCENTILE = 1.0


def features_to_statistics(train_features: npt.ArrayLike, held_out_features: npt.ArrayLike) -> float:
    """Return the threshold: the 1st percentile of the held-out images' distances to their nearest training image.

    train_features [N, D], held_out_features [M, D]; the distance is Euclidean, in units of the features.
    """
    train, held_out = as_features(train_features), as_features(held_out_features)
    return float(np.percentile(nearest_distances(held_out, train), PERCENTILE))


def statistics_to_metric(fake_distances: Floats, threshold: float) -> float:
    """Return the share of fake images whose distance to the nearest training image, [M], is below the threshold."""
    return float((fake_distances < threshold).mean())


def compute(train_features: npt.ArrayLike, held_out_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> float:
    """Return the share of fake features [K, D] nearer to training features [N, D] than 99 % of held-out ones [M, D]."""
    threshold = features_to_statistics(train_features, held_out_features)
    distances = nearest_distances(as_features(fake_features), as_features(train_features))
    return statistics_to_metric(distances, threshold)
