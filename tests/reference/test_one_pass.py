"""The pass with shared inner products in float32, compared with each metric in float64; and its errors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from components.evaluate.metrics import bootstrap, fid, kid, one_pass, prdc, tiles
from tests.reference.test_metrics import FAKE, REAL, features

K = 5


def kernel_rows(
    left: npt.NDArray[np.float64], right: npt.NDArray[np.float64], diagonal: bool = True
) -> npt.NDArray[np.float64]:
    """Return the row sums of the kernel, computed directly."""
    kernel = (left @ right.T / left.shape[1] + 1) ** 3
    sums: npt.NDArray[np.float64] = kernel.sum(axis=1) - (0 if diagonal else np.diag(kernel))
    return sums


def assert_same_as_single_metrics(real: npt.NDArray[np.floating], fake: npt.NDArray[np.floating]) -> None:
    found = one_pass.compare(real, fake, K)
    wide_real, wide_fake = real.astype(np.float64), fake.astype(np.float64)
    fake_rows, mixed_rows = kernel_rows(wide_fake, wide_fake, diagonal=False), kernel_rows(wide_fake, wide_real)
    assert found.fid == pytest.approx(fid.compute(wide_real, wide_fake), rel=1e-9)
    kernel_mean = float(mixed_rows.mean()) / len(real)  # KID is a small difference of such means
    assert kid.statistics_to_metric(found.sums) == pytest.approx(
        kid.compute(wide_real, wide_fake), rel=1e-6, abs=1e-8 * kernel_mean
    )
    np.testing.assert_allclose(found.sums.fake_rows, fake_rows, rtol=1e-6)
    np.testing.assert_allclose(found.sums.mixed_rows, mixed_rows, rtol=1e-6)
    assert found.shares == pytest.approx(prdc.compute(wide_real, wide_fake, K), abs=1e-12)
    distances, nearest = NearestNeighbors(n_neighbors=1).fit(real).kneighbors(fake)
    assert found.nearest_distances == pytest.approx(distances[:, 0], rel=1e-6, abs=1e-6)
    np.testing.assert_array_equal(found.nearest, nearest[:, 0])


class TestAgainstSingleMetrics:
    def test_reference_values_of_torch_fidelity_and_naeem_et_al(self) -> None:
        found = one_pass.compare(REAL, FAKE, K)
        assert found.fid == pytest.approx(1.5218610591741637, rel=1e-6)
        assert kid.statistics_to_metric(found.sums) == pytest.approx(0.06306816431574136, rel=1e-6)
        assert found.shares == pytest.approx((0.7215, 0.967, 0.5112, 0.829), abs=1e-9)
        three = one_pass.compare(REAL, FAKE, 3).shares
        assert (three.precision, three.recall) == pytest.approx((0.605, 0.922), abs=1e-9)

    def test_one_tile(self) -> None:
        assert_same_as_single_metrics(REAL[:300], FAKE[:211])

    def test_many_tiles_of_unequal_height(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tiles, "TILE", 64)
        monkeypatch.setattr(tiles, "PAIRS_AT_ONCE", 100)
        assert_same_as_single_metrics(REAL[:300], FAKE[:211])

    def test_tiles_narrower_than_the_number_of_neighbours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tiles, "TILE", 6)
        assert_same_as_single_metrics(REAL[:50], FAKE[:45])

    def test_features_far_from_zero_and_of_float64(self) -> None:
        """The terms of the kernel undo the centring."""
        assert_same_as_single_metrics(REAL[:300].astype(np.float64) * 0.1 + 8.0, FAKE[:211].astype(np.float64) * 0.1 + 8.0)

    @pytest.mark.heavy
    def test_many_wide_features(self) -> None:
        assert_same_as_single_metrics(
            features(1, count=2500, dimensions=2048), features(2, 0.1, 1.1, count=2200, dimensions=2048)
        )

    def test_rounding_errors_are_below_the_bound(self) -> None:
        for dimensions in (16, 512):
            real, fake = features(1, count=300, dimensions=dimensions), features(2, 0.1, count=300, dimensions=dimensions)
            left, right = (tiles.centre(each, real.mean(axis=0, dtype=np.float64)) for each in (real, fake))
            found = tiles.squared_distances(left.values @ right.values.T, left.norms, right.norms)
            exact = cdist(real.astype(float), fake.astype(float), "sqeuclidean")
            off = np.abs(found - exact) / (left.norms[:, None] + right.norms[None])
            assert off.max() < tiles.ROUNDING * np.finfo(np.float32).eps / 2


class TestTies:
    """Distances equal to a radius are compared exactly."""

    def test_copies_of_real_images(self) -> None:
        real = REAL[:200]
        assert_same_as_single_metrics(real, real[::-1].copy())
        found = one_pass.compare(real, real[::-1].copy(), K)
        assert (found.nearest_distances == 0.0).all()
        assert found.shares.precision == found.shares.recall == found.shares.coverage == 1.0
        # The K-th neighbour is on the surface of a ball, so outside; an image is inside its own ball.
        assert found.shares.density == pytest.approx(1.0, abs=1e-12)

    def test_many_equal_images(self) -> None:
        fake = np.concatenate([np.repeat(FAKE[:3], 40, axis=0), REAL[:20]])
        real = REAL[:150]
        same = one_pass.compare(real, fake, K)
        assert same.shares == pytest.approx(prdc.compute(real, fake, K), abs=1e-12)


class TestWeights:
    def test_interval_and_standard_error_equal_those_of_single_metrics(self) -> None:
        real, fake = REAL[:220], FAKE[:180]
        of_real, of_fake = bootstrap.both_weights(len(real), len(fake), 3)
        rows = kid.rows_left_out(len(fake), subsets=7, subset_size=50, seed=3)
        alone = kid.indicators(rows, len(fake))
        side = one_pass.real_side(real, K, of_real)
        found = one_pass.compare(real, fake, K, side, (of_real, of_fake), of_fake_alone=alone)
        drawn = (side.drawn, found.fake_drawn[: len(of_fake)], found.mixed_drawn)
        interval = bootstrap.interval_of_sums(*drawn, of_real, of_fake)
        assert interval == pytest.approx(bootstrap.kid_interval(real.astype(float), fake.astype(float), 3), rel=1e-4)
        error = kid.standard_error(found.sums, rows, found.fake_drawn[len(of_fake) :].tolist())
        _, expected = kid.compute_with_error(real.astype(float), fake.astype(float), subsets=7, subset_size=50, seed=3)
        assert error == pytest.approx(expected, rel=1e-4)


class TestErrors:
    @pytest.mark.parametrize(
        ("real", "fake", "sentence"),
        [
            (REAL[:50], FAKE[:50, :63], "real images have 64 features, fake ones 63: use one extractor for both"),
            (REAL[:50], FAKE[:5], "k = 5 neighbours need at least 6 fake images; got 5"),
            (REAL[:5], FAKE[:50], "k = 5 neighbours need at least 6 real images; got 5"),
            (
                REAL[:50],
                np.where(np.arange(50)[:, None] < 3, np.nan, FAKE[:50]),
                "3 of 50 fake images have features that are not",
            ),
            (np.full((50, 64), np.inf), FAKE[:50], "50 of 50 real images have features that are not finite"),
            (np.full((50, 64), 0.3), FAKE[:50], "all 50 real images have the same features, so scores would be meaningless"),
            (REAL[:50] * 1e7, FAKE[:50], "features reach .*; scale them to below 1e.06"),
            (REAL[:50, 0], FAKE[:50], r"real features must be \[N, D\]"),
        ],
    )
    def test_invalid_features(self, real: npt.NDArray[np.floating], fake: npt.NDArray[np.floating], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            one_pass.compare(real, fake, K)

    @pytest.mark.parametrize("metric", [fid.compute, kid.compute, lambda real, fake: prdc.compute(real, fake, K)])
    def test_each_metric_refuses_unequal_widths(self, metric: object) -> None:
        assert callable(metric)
        with pytest.raises(ValueError, match="real images have 64 features, fake ones 63"):
            metric(REAL[:50], FAKE[:50, :63])

    def test_constant_samples_are_scored(self) -> None:
        found = one_pass.compare(REAL[:50], np.full((40, 64), 0.5, np.float32), K)
        assert np.isfinite([found.fid, kid.statistics_to_metric(found.sums), *found.shares]).all()
        assert found.shares.recall == 0.0
