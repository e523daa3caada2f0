"""The metrics compared with independent programs, closed forms, and properties of their definitions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from components.evaluate.metrics import fid, kid, memorization, prdc, tiles

Floats = npt.NDArray[np.float32]


def features(seed: int, shift: float = 0.0, scale: float = 1.0, count: int = 2000, dimensions: int = 64) -> Floats:
    """Return correlated, non-negative features, like those of a ReLU network."""
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((count, 16))
    mixing = np.random.default_rng(1234).standard_normal((16, dimensions)) / 4
    noise = 0.5 * generator.standard_normal((count, dimensions))
    return np.maximum(0, (latents @ mixing) * scale + shift + noise).astype(np.float32)


REAL = features(1)
FAKE = features(2, 0.1, 1.1)
REAL64, FAKE64 = REAL.astype(np.float64), FAKE.astype(np.float64)  # for these, the functions compute in float64


class TestValuesOfIndependentPrograms:
    def test_fid_equals_that_of_scipys_matrix_root(self) -> None:
        assert fid.compute(REAL, FAKE) == pytest.approx(1.521861031477826, rel=1e-10)

    def test_fid_equals_that_of_torch_fidelity(self) -> None:
        assert fid.compute(REAL, FAKE) == pytest.approx(1.5218610591741637, rel=1e-7)

    def test_kid_equals_the_direct_formula(self) -> None:
        assert kid.compute(REAL64, FAKE64) == pytest.approx(0.06306816431574136, rel=1e-10)
        assert kid.compute(REAL, FAKE) == pytest.approx(0.06306816431574136, rel=1e-6)

    def test_kid_of_subsets_scatters_like_that_of_torch_fidelity(self) -> None:
        generator = np.random.default_rng(0)
        pairs = [(generator.choice(2000, 1000, replace=False) for _ in range(2)) for _ in range(30)]
        estimates = [kid.compute(REAL[real_rows], FAKE[fake_rows]) for real_rows, fake_rows in pairs]
        assert np.mean(estimates) == pytest.approx(0.06319, abs=4 * 0.00576 / np.sqrt(30))
        assert np.std(estimates) == pytest.approx(0.00576, rel=0.3)

    def test_precision_and_recall_equal_those_of_torch_fidelity(self) -> None:
        shares = prdc.compute(REAL, FAKE, k=3)
        assert (shares.precision, shares.recall) == pytest.approx((0.605, 0.922), abs=1e-9)

    def test_all_four_shares_equal_those_of_naeem_et_al(self) -> None:
        assert prdc.compute(REAL, FAKE, k=5) == pytest.approx((0.7215, 0.967, 0.5112, 0.829), abs=1e-9)

    def test_kid_equals_that_of_scikit_learns_polynomial_kernel(self) -> None:
        real, fake = REAL[:500].astype(float), FAKE[:400].astype(float)
        of_real, of_fake, mixed = (
            polynomial_kernel(x, y, degree=3, gamma=1 / 64, coef0=1) for x, y in ((real, real), (fake, fake), (real, fake))
        )
        within = [(of.sum() - np.trace(of)) / (len(of) * (len(of) - 1)) for of in (of_real, of_fake)]
        assert kid.compute(real, fake) == pytest.approx(sum(within) - 2 * mixed.mean(), rel=1e-9)

    def test_radii_equal_those_of_scikit_learns_neighbours(self) -> None:
        distances, _ = NearestNeighbors(n_neighbors=5).fit(REAL).kneighbors()
        assert np.sqrt(prdc.squared_radii(REAL, 5)) == pytest.approx(distances[:, 4], rel=1e-6)


class TestFid:
    def test_closed_form_for_commuting_covariances(self) -> None:
        real = fid.Statistics(np.array([1.0, 2.0, 3.0]), np.diag([1.0, 4.0, 9.0]))
        fake = fid.Statistics(np.array([1.0, 0.0, 3.0]), np.diag([16.0, 1.0, 0.0]))
        assert fid.statistics_to_metric(real, fake) == pytest.approx(4.0 + 9.0 + 1.0 + 9.0, rel=1e-12)

    def test_scipys_matrix_root_for_other_covariances(self) -> None:
        generator = np.random.default_rng(5)
        first, second = (m @ m.T for m in generator.standard_normal((2, 6, 6)))
        expected = np.trace(first + second - 2 * sqrtm(first @ second).real)
        zero = np.zeros(6)
        found = fid.statistics_to_metric(fid.Statistics(zero, first), fid.Statistics(zero, second))
        assert found == pytest.approx(expected, rel=1e-9)

    def test_samples_are_near_the_closed_form(self) -> None:
        real = np.random.default_rng(1).normal(0.0, 1.0, (20_000, 8))
        fake = np.random.default_rng(2).normal(0.5, 2.0, (20_000, 8))
        assert fid.compute(real, fake) == pytest.approx(8 * (0.5**2 + 1.0), rel=0.03)

    def test_it_is_symmetric_and_zero_for_equal_features(self) -> None:
        assert fid.compute(REAL, REAL) == pytest.approx(0.0, abs=1e-9)
        assert fid.compute(FAKE, REAL) == pytest.approx(fid.compute(REAL, FAKE), rel=1e-9)

    def test_closed_form_for_constant_features(self) -> None:
        constant = np.ones((100, 64))
        real = REAL.astype(np.float64)
        expected = np.square(real.mean(axis=0) - 1).sum() + real.var(axis=0, ddof=1).sum()
        assert fid.compute(REAL, constant) == pytest.approx(expected, rel=1e-9)


def standard_error(real: Floats, fake: Floats, *, size: int, subsets: int = 20, seed: int = 0) -> float:
    return kid.compute_with_error(real, fake, subsets=subsets, subset_size=size, seed=seed)[1]


class TestKid:
    def test_it_is_unbiased(self) -> None:
        """Over many pairs of sets from one distribution, the mean is zero within its standard error."""
        estimates = [kid.compute(features(s, count=60), features(s + 1000, count=90)) for s in range(100)]
        assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(len(estimates))

    @pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.02, 1.0), (0.3, 1.2)])
    def test_the_standard_error_is_the_scatter_of_kid(self, shift: float, scale: float) -> None:
        """Compared with the scatter over 80 independent sets of samples of a perfect, a good and a bad generator."""
        real = features(1, count=500)
        fakes = [features(s, shift, scale, count=400) for s in range(1000, 1080)]
        scatter = np.std([kid.compute(real, fake) for fake in fakes], ddof=1)
        errors = [standard_error(real, fake, size=size) for fake in fakes[:10] for size in (40, 100)]
        assert 0.8 * scatter < np.mean(errors) < 1.5 * scatter

    def test_leaving_out_equals_computing_without(self) -> None:
        """Row sums give the same result as the definition."""
        real, fake, generator = REAL64[:90], FAKE64[:70], np.random.default_rng(4)
        left = [np.delete(fake, generator.choice(70, 20, replace=False), axis=0) for _ in range(6)]
        expected = np.std([kid.compute(real, rest) for rest in left], ddof=1) * np.sqrt(50 / 20)
        assert standard_error(real, fake, size=20, subsets=6, seed=4) == pytest.approx(expected, rel=1e-9)

    def test_subsets_are_limited_to_half_of_the_samples(self) -> None:
        capped = standard_error(REAL[:100], FAKE[:80], size=500)
        assert capped == standard_error(REAL[:100], FAKE[:80], size=40)
        assert 0 < capped < 1

    def test_subsets_depend_only_on_the_seed(self) -> None:
        first, again, other = (standard_error(REAL[:200], FAKE[:200], size=50, seed=seed) for seed in (1, 1, 2))
        assert first == again != other

    def test_one_image_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 2 images of each kind; got 1 real and 2 fake"):
            kid.compute(REAL[:1], FAKE[:2])


class TestPrdc:
    def test_it_equals_the_definitions(self) -> None:
        real, fake, k = REAL[:150].astype(float), FAKE[:110].astype(float), 4
        real_radii = np.sort(cdist(real, real), axis=1)[:, k]
        fake_radii = np.sort(cdist(fake, fake), axis=1)[:, k]
        distances = cdist(real, fake)
        in_real = distances < real_radii[:, None]
        expected = (
            in_real.any(axis=0).mean(),
            (distances < fake_radii[None]).any(axis=1).mean(),
            in_real.sum() / k / len(fake),
            in_real.any(axis=1).mean(),
        )
        assert prdc.compute(real, fake, k) == pytest.approx(expected, abs=1e-12)

    def test_a_missing_mode_lowers_only_recall_and_coverage(self) -> None:
        modes = np.repeat(np.eye(8)[:4] * 20, 100, axis=0)
        real = modes + np.random.default_rng(1).standard_normal(modes.shape)
        fake = (modes + np.random.default_rng(2).standard_normal(modes.shape))[:300]
        shares = prdc.compute(real, fake, k=5)
        assert shares.recall <= 0.75
        assert shares.coverage <= 0.75
        assert shares.precision > 0.85

    def test_too_few_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="k = 5 neighbours need at least 6 real images; got 5"):
            prdc.compute(REAL[:5], FAKE, k=5)


class TestMemorization:
    def test_unseen_images_score_about_one_percent(self) -> None:
        found = memorization.compute(REAL, features(3), features(4))
        assert found.share == pytest.approx(0.01, abs=0.008)
        assert found.nearer == pytest.approx(0.5, abs=0.04)
        assert found.p_value > 0.01

    def test_copies_of_training_images_score_one(self) -> None:
        found = memorization.compute(REAL, features(3), REAL[:500])
        assert (found.share, found.nearer) == (1.0, 1.0)
        assert found.p_value < 1e-100

    def test_half_copies_score_half(self) -> None:
        half = np.concatenate([REAL[:500], features(4, count=500)])
        found = memorization.compute(REAL, features(3), half)
        assert found.share == pytest.approx(0.5, abs=0.01)
        assert found.nearer == pytest.approx(0.75, abs=0.02)
        assert found.p_value < 1e-30

    def test_held_out_images_score_one_percent(self) -> None:
        held_out = features(3)
        found = memorization.compute(REAL, held_out, held_out)
        assert found.share == pytest.approx(0.01, abs=1e-3)
        assert found.nearer == pytest.approx(0.5, abs=1e-12)

    @pytest.mark.parametrize("decimals", [12, 1])
    def test_p_value_with_and_without_ties(self, decimals: int) -> None:
        generator = np.random.default_rng(0)
        lower, upper = generator.normal(0, 1, 130).round(decimals), generator.normal(0.15, 1, 90).round(decimals)
        expected = mannwhitneyu(lower, upper, alternative="less", method="asymptotic")
        nearer, p_value = memorization.mann_whitney(lower, upper)
        assert p_value == pytest.approx(expected.pvalue, rel=1e-9)
        assert nearer == pytest.approx(1 - expected.statistic / (130 * 90), rel=1e-12)

    def test_p_values_of_unseen_images_are_uniform(self) -> None:
        generator = np.random.default_rng(0)
        found = [memorization.mann_whitney(*generator.standard_normal((2, 60)))[1] for _ in range(400)]
        assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.03)

    def test_equal_distances_are_no_evidence(self) -> None:
        assert memorization.mann_whitney(np.ones(20), np.ones(30)) == (0.5, 1.0)

    def test_worst_pairs_are_the_closest_with_each_training_image_once(self) -> None:
        distances, nearest = np.array([0.3, 0.1, 0.2, 0.1, 0.5]), np.array([7, 4, 4, 9, 7])
        assert memorization.worst_pairs(distances, nearest, 3) == [(1, 4), (3, 9), (0, 7)]
        assert memorization.worst_pairs(distances, nearest, 9) == [(1, 4), (3, 9), (0, 7)]

    def test_too_few_held_out_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="memorization needs at least 10 held-out images; got 9"):
            memorization.features_to_statistics(REAL, FAKE[:9])


class TestTiles:
    @pytest.mark.parametrize(("dtype", "rel"), [(np.float64, 1e-12), (np.float32, 1e-5)])
    def test_scores_do_not_depend_on_the_size_of_tiles(
        self, monkeypatch: pytest.MonkeyPatch, dtype: npt.DTypeLike, rel: float
    ) -> None:
        real, fake, held_out = (each.astype(dtype) for each in (REAL[:400], FAKE[:311], features(3, count=99)))

        def scores() -> list[float]:
            shares = prdc.compute(real, fake, 5)
            return [kid.compute(real, fake), *memorization.compute(real, held_out, fake), *shares]

        whole = scores()
        monkeypatch.setattr(tiles, "TILE", 37)
        assert scores() == pytest.approx(whole, rel=rel)

    def test_nearest_images_equal_those_of_scipy(self) -> None:
        distances = cdist(FAKE64[:20], REAL64)
        for fake, real in ((FAKE, REAL), (FAKE64, REAL64)):
            indices, found = tiles.nearest_images(fake[:20], real, 5)
            assert np.array_equal(indices, np.argsort(distances, axis=1)[:, :5])
            assert found == pytest.approx(np.sort(distances, axis=1)[:, :5], rel=1e-12)

    @pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 3)), np.full((2, 2), np.nan)])
    def test_invalid_features_are_refused(self, bad: Floats) -> None:
        for compute in (kid.compute, fid.compute):
            with pytest.raises(
                ValueError, match=r"fake features must be \[N, D\]|fake images have features that are not finite"
            ):
                compute(REAL, bad)
