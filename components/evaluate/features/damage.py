"""Ways to damage real images, which the default extractor learns to recognise.

A network that tells damaged images from real ones has features in which they lie far apart. In those of one that only learned
labels, or has random weights, noise and blurs lie among real images. Telling transformed images apart is a usual way to learn
features without labels: Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations"; Golan and
El-Yaniv 2018, "Deep Anomaly Detection Using Geometric Transformations".

A function of KINDS takes images uint8 [N, H, W, C], the number of damaged images and a random generator, and returns values
[M, H, W, C] of about 0 to 255. It uses the length and the shape of the images, and those that `some` draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]
Generator = np.random.Generator


class Repeated:
    """Images uint8 [N, H, W, C] in the order of `rows` [M], some of them repeatedly; only those that are indexed are copied."""

    def __init__(self, images: Pixels, rows: npt.NDArray[np.intp]) -> None:
        self._images, self._rows = images, rows
        self.shape = (len(rows), *images.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, numbers: npt.NDArray[np.integer]) -> Pixels:
        """Return copies of the images of these numbers [K], between 0 and M - 1: uint8 [K, H, W, C]."""
        return np.asarray(self._images[self._rows[numbers]])


Images = Pixels | Repeated
Damage = Callable[[Images, int, Generator], Values]

PARTS = 8  # of the damaged images of one kind; each part has its own strength
MOST_COMPONENTS = 100
DIRECTIONS = 8  # of shifts, each a kind


def damaged(images: Images, count: int, generator: Generator) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return about `count` damaged images, all kinds alike, and the kind of each: its index in KINDS, int64."""
    each = max(1, count // len(KINDS))
    made = np.empty((len(KINDS) * each, *images.shape[1:]), np.uint8)
    for kind, damage in enumerate(KINDS):
        made[kind * each : (kind + 1) * each] = as_pixels(damage(images, each, generator))
    return made, np.repeat(np.arange(len(KINDS)), each)


def as_pixels(values: Values) -> Pixels:
    """Return values as uint8: rounded, and cut off at 0 and 255. Overwrites `values`, which may be large."""
    return values.round(out=values).clip(0, 255, out=values).astype(np.uint8)


def blurred(values: Values, sigma: float) -> Values:
    """Return images [N, H, W, C], blurred by a Gaussian with a standard deviation in pixels."""
    from scipy.ndimage import gaussian_filter  # imported here because a cached extractor does not need it

    return np.asarray(gaussian_filter(values, (0, sigma, sigma, 0), mode="nearest"))


def shifted(values: Values, down: int, right: int) -> Values:
    """Return images [N, H, W, C], shifted by less than their size; the border is repeated where nothing is left."""
    size, border = values.shape[1], max(abs(down), abs(right))
    wide = np.pad(values, ((0, 0), (border, border), (border, border), (0, 0)), mode="edge")
    moved: Values = wide[:, border - down : border - down + size, border - right : border - right + size]
    return moved


def _blurs(images: Images, count: int, generator: Generator) -> Values:
    size = images.shape[1]
    return _in_parts(some(images, count, generator), np.geomspace(max(0.5, size / 40), size / 6, PARTS), blurred)


def _noisy(images: Images, count: int, generator: Generator) -> Values:
    deviations = np.exp(generator.uniform(np.log(6), np.log(100), (count, 1, 1, 1)))
    chosen, noise = some(images, count, generator), generator.standard_normal((count, *images.shape[1:]))
    noise *= deviations
    noise += chosen
    return noise


def _double_exposures(images: Images, count: int, generator: Generator) -> Values:
    share = generator.uniform(0.2, 0.5, (count, 1, 1, 1))
    values: Values = (1 - share) * some(images, count, generator)
    values += share * some(images, count, generator)
    return values


def _shuffled_tiles(images: Images, count: int, generator: Generator) -> Values:
    grid = 2 if images.shape[1] < 16 else 4
    tile, values = images.shape[1] // grid, some(images, count, generator)
    channels, covered = values.shape[3], grid * tile  # a rest of less than a tile stays where it is
    tiles = values[:, :covered, :covered].reshape(count, grid, tile, grid, tile, channels).transpose(0, 1, 3, 2, 4, 5)
    order = generator.permuted(np.tile(np.arange(grid * grid), (count, 1)), axis=1)
    shuffled = tiles.reshape(count, grid * grid, tile, tile, channels)[np.arange(count)[:, None], order]
    rows = shuffled.reshape(count, grid, grid, tile, tile, channels).transpose(0, 1, 3, 2, 4, 5)
    values[:, :covered, :covered] = rows.reshape(count, covered, covered, channels)
    return values


def _random_components(images: Images, count: int, generator: Generator) -> Values:
    """Draw from a Gaussian that has the mean and the largest principal components of the images."""
    flat: Values = some(images, 5 * MOST_COMPONENTS, generator).reshape(5 * MOST_COMPONENTS, -1)
    mean = flat.mean(axis=0)
    centred = flat - mean
    # The components of few images from their inner products: much faster than a decomposition of all pixels.
    _, shares = np.linalg.eigh(centred @ centred.T)
    largest = shares[:, ::-1][:, : min(MOST_COMPONENTS, flat.shape[1])]
    scaled = largest.T @ centred / np.float32(np.sqrt(len(flat)))

    def draw(values: Values, used: float) -> Values:
        return np.asarray(mean + generator.standard_normal((len(values), int(used)), np.float32) @ scaled[: int(used)])

    numbers = np.geomspace(2, len(scaled), PARTS)
    return _in_parts(np.empty((count, flat.shape[1]), np.float32), numbers, draw).reshape(count, *images.shape[1:])


def _without_structure(images: Images, count: int, generator: Generator) -> Values:
    """Draw uniform noise, images of one colour, and the mean image with noise, a third each."""
    sample = some(images, min(len(images), 1000), generator)
    strength = generator.uniform(0, 1, (count, 1, 1, 1))
    values: Values = strength * sample.std(axis=0)
    values *= generator.standard_normal(values.shape)
    values += sample.mean(axis=0)
    third = count // 3
    values[:third] = generator.integers(0, 256, values[:third].shape)
    values[third : 2 * third] = generator.uniform(0, 255, (third, 1, 1, images.shape[3]))
    return values


def smooth_noise(images: Images, count: int, generator: Generator) -> Values:
    """Draw blurred noise with about the brightness and contrast of the images."""
    noise = generator.standard_normal((count, *images.shape[1:]), np.float32)
    noise = _in_parts(noise, np.geomspace(0.7, images.shape[1] / 5, PARTS), blurred)
    noise /= noise.std(axis=(1, 2), keepdims=True) + 1e-6
    like = some(images, count, generator)
    contrast = like.std(axis=(1, 2), keepdims=True) * generator.uniform(0.3, 1.5, (count, 1, 1, 1))
    values: Values = contrast * noise
    values += like.mean(axis=(1, 2), keepdims=True)
    return values


def _shifts(direction: int) -> Damage:
    """Return shifts towards one of DIRECTIONS. They are hard to recognise: as one kind, too many were taken for real."""

    def shifts(images: Images, count: int, generator: Generator) -> Values:
        def shift(values: Values, angle: float) -> Values:
            distance = generator.uniform(images.shape[1] / 7, 0.45 * images.shape[1])
            down, right = round(np.sin(angle) * distance), round(np.cos(angle) * distance)
            return shifted(values, down, right or int(not down))

        angles = (direction + generator.uniform(0, 1, 10 * PARTS)) * 2 * np.pi / DIRECTIONS
        return _in_parts(some(images, count, generator), angles, shift)

    return shifts


def _halves_of_two(images: Images, count: int, generator: Generator) -> Values:
    values, others = some(images, count, generator), some(images, count, generator)
    middle, half = images.shape[1] // 2, count // 2
    values[:half, middle:] = others[:half, middle:]
    values[half:, :, middle:] = others[half:, :, middle:]
    return values


def _warped(images: Images, count: int, generator: Generator) -> Values:
    from scipy.ndimage import gaussian_filter

    size = images.shape[1]

    def warp(values: Values, strength: float) -> Values:
        offsets = gaussian_filter(generator.standard_normal((2, size, size)), (0, size / 8, size / 8))
        places = np.clip(np.mgrid[:size, :size] + offsets * strength * size / np.abs(offsets).max(), 0, size - 1)
        low = np.floor(places).astype(int)
        high, share = np.minimum(low + 1, size - 1), (places - low)[..., None].astype(np.float32)
        top = values[:, low[0], low[1]] * (1 - share[0]) + values[:, high[0], low[1]] * share[0]
        bottom = values[:, low[0], high[1]] * (1 - share[0]) + values[:, high[0], high[1]] * share[0]
        return np.asarray(top * (1 - share[1]) + bottom * share[1])

    return _in_parts(some(images, count, generator), generator.uniform(0.05, 0.12, 5 * PARTS), warp)


def _turned(quarters: int) -> Damage:
    return lambda images, count, generator: np.rot90(some(images, count, generator), quarters, (1, 2))


KINDS: tuple[Damage, ...] = (
    _blurs,
    _noisy,
    _double_exposures,
    _shuffled_tiles,
    _random_components,
    _without_structure,
    smooth_noise,
    _halves_of_two,
    _warped,
    _turned(1),
    _turned(2),
    _turned(3),
    *(_shifts(direction) for direction in range(DIRECTIONS)),
)


def some(images: Images, count: int, generator: Generator) -> Values:
    """Return `count` images, drawn with repetition, as float32."""
    return images[generator.integers(0, len(images), count)].astype(np.float32)


def _in_parts(values: Values, strengths: npt.NDArray[Any], change: Callable[[Values, float], Values]) -> Values:
    """Replace each of as many parts of the values as there are strengths by `change` of it; return the values."""
    for part, strength in zip(np.array_split(np.arange(len(values)), len(strengths)), strengths, strict=True):
        if len(part):
            values[part] = change(values[part], float(strength))
    return values
