"""Sharpness, colours, class score and class coverage compared with SciPy, Pillow, closed forms and their definitions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter
from scipy.stats import entropy

from components.evaluate.metrics import classes, colours, sharpness
from components.evaluate.metrics.colours import distance_in_deviations

Images = npt.NDArray[np.uint8]


def pictures(seed: int, channels: int = 3, count: int = 60) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 10, channels)).astype(np.uint8)


class TestDistanceInDeviations:
    def test_distance_of_a_shift(self) -> None:
        values = np.random.default_rng(0).normal(size=50)
        assert distance_in_deviations(values, values + 0.25) == pytest.approx(0.25 / values.std())
        assert distance_in_deviations(values, values) == 0.0

    def test_equal_numbers_have_a_deviation_of_one(self) -> None:
        assert distance_in_deviations(np.full(9, 2.0), np.full(4, 5.0)) == pytest.approx(3.0)


class TestSharpness:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_it_equals_the_variance_of_scipys_convolution(self, channels: int) -> None:
        images = pictures(1, channels)
        laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
        grey = images[..., 0].astype(float) if channels == 1 else images @ np.array([0.299, 0.587, 0.114])
        expected = [convolve(each, laplacian)[1:-1, 1:-1].var() for each in grey]
        assert sharpness.features_to_statistics(images) == pytest.approx(expected, rel=1e-9)

    def test_blurred_images_are_less_sharp_and_noisy_ones_more(self) -> None:
        real = gaussian_filter(pictures(1).astype(float), (0, 1, 1, 0)).astype(np.uint8)
        blurred = gaussian_filter(real.astype(float), (0, 1, 1, 0)).astype(np.uint8)
        less, more = sharpness.compute(real, blurred), sharpness.compute(real, pictures(2))
        assert less < 0.5
        assert more > 2.0
        assert sharpness.compute(real, real) == 1.0

    def test_flat_images_have_a_finite_value(self) -> None:
        assert sharpness.compute(np.full((4, 5, 5, 1), 7, np.uint8), np.full((3, 5, 5, 1), 9, np.uint8)) == 1.0


class TestColours:
    def test_the_numbers_equal_those_of_numpy_and_pillow(self) -> None:
        images = pictures(1)
        found = colours.features_to_statistics(images)
        assert found.shape == (60, 7)
        assert found[:, :3] == pytest.approx(images.reshape(60, -1, 3).mean(axis=1))
        assert found[:, 3:6] == pytest.approx(images.reshape(60, -1, 3).std(axis=1))
        saturation = [np.asarray(Image.fromarray(each).convert("HSV"))[..., 1].mean() / 255 for each in images]
        assert found[:, 6] == pytest.approx(saturation, abs=1 / 255)  # Pillow rounds each pixel

    def test_one_darker_channel_is_detected(self) -> None:
        real = pictures(1)
        dark = real.copy()
        dark[..., 2] //= 2
        assert colours.compute(real, dark) > 3.0
        assert colours.compute(real, pictures(2)) < 0.5
        assert colours.compute(real[..., :1], real[..., :1]) == 0.0

    def test_grey_samples_of_coloured_images_lack_saturation(self) -> None:
        real = pictures(1)
        grey = real.mean(axis=3, keepdims=True).astype(np.uint8).repeat(3, axis=3)
        assert colours.compute(real, grey) > 3.0
        assert colours.features_to_statistics(grey)[:, 6].max() == 0.0

    @pytest.mark.parametrize("metric", [sharpness.compute, colours.compute])
    @pytest.mark.parametrize(
        "bad", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8), np.zeros((0, 4, 4, 1), np.uint8), pictures(1)[..., :2]]
    )
    def test_invalid_images_are_refused(self, metric: object, bad: Images) -> None:
        assert callable(metric)
        with pytest.raises(ValueError, match=r"images must be uint8 \[N, H, W, 1 or 3\]"):
            metric(bad, bad)

    def test_other_channels_and_tiny_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="real images have 7 colour numbers, fake ones 2"):
            colours.compute(pictures(1), pictures(1, 1))
        with pytest.raises(ValueError, match="images must be at least 3×3; got 2×10"):
            sharpness.compute(pictures(1)[:, :2], pictures(1)[:, :2])


class TestClassScore:
    def test_it_equals_scipys_divergence(self) -> None:
        probabilities = np.random.default_rng(0).dirichlet(np.ones(7) * 0.4, 200)
        expected = np.exp(np.mean([entropy(row, probabilities.mean(axis=0)) for row in probabilities]))
        assert classes.class_score(probabilities) == pytest.approx(expected, rel=1e-9)

    def test_it_is_between_one_and_the_number_of_classes(self) -> None:
        assert classes.class_score(np.eye(5).repeat(4, axis=0)) == pytest.approx(5.0)
        assert classes.class_score(np.eye(5)[[2] * 9]) == pytest.approx(1.0)
        assert classes.class_score(np.full((9, 5), 0.2)) == pytest.approx(1.0)

    @pytest.mark.parametrize("bad", [np.ones((3, 2)), np.array([[1.5, -0.5]]), np.ones(3), np.full((2, 2), np.nan)])
    def test_invalid_probabilities_are_refused(self, bad: npt.NDArray[np.float64]) -> None:
        with pytest.raises(ValueError, match=r"probabilities must be \[N, K\] and at least 0, and rows must add up to 1"):
            classes.class_score(bad)


def coverage(real: npt.NDArray[np.int64], fake: npt.NDArray[np.int64]) -> classes.ClassCoverage:
    count = 1 + int(max(real.max(), fake.max()))
    return classes.coverage(classes.class_shares(real, count), classes.class_shares(fake, count))


class TestClassCoverage:
    def test_a_class_below_a_tenth_of_its_share_is_not_covered(self) -> None:
        real = np.repeat([0, 1, 2], 100)
        found = coverage(real, np.repeat([0, 1, 2], [150, 147, 3]))
        assert (found.covered, found.of) == (2, 3)
        assert found.imbalance == pytest.approx(0.5 * (1 / 6 + 0.49 - 1 / 3 + 1 / 3 - 0.01))
        assert coverage(real, real) == (3, 3, 0.0)

    def test_a_class_without_real_images_only_counts_as_imbalance(self) -> None:
        found = coverage(np.array([0, 1]), np.array([0, 1, 2, 2]))
        assert (found.covered, found.of, found.imbalance) == (2, 2, 0.5)

    def test_invalid_classes_are_refused(self) -> None:
        with pytest.raises(ValueError, match="classes must be N ≥ 1 numbers from 0 to 2"):
            classes.class_shares(np.array([0, 3]), 3)
