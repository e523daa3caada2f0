"""`generate`: images from a published generator, as files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from components.common.addresses import is_address, local_path
from components.common.artifacts import atomic_directory
from components.common.errors import ConfigError
from components.common.images import grid, png_bytes

GRID_IMAGES = 400  # more are too small to see and too large to open


def draw(
    model: str,
    out: Path,
    count: int,
    seed: int,
    label: int | None = None,
    *,
    truncation: float | None = None,
    steps: int = 0,
) -> str:
    """Write `count` PNGs, of one label if it is given, and grid.png into the new folder `out`; return a sentence.

    With `steps`, interpolation.png has rows of so many images from one latent to the next. Raises ConfigError if `out`
    exists or the model does not know the label.
    """
    from components.generator.generator import STRIP_ROWS, drawn_in_fresh_process

    _check(out, truncation, steps)
    digits = len(str(count - 1))
    with (
        _generator_of(model) as source,
        drawn_in_fresh_process(source, count, seed, label, truncation=truncation, steps=steps) as drawn,
    ):
        images = drawn.images
        with atomic_directory(out) as folder:  # it is on the disk as a whole before it appears: no file needs to be by itself
            for index, image in enumerate(images):
                (folder / f"{index:0{digits}d}.png").write_bytes(png_bytes(image))
            scale, shown = max(1, 64 // images.shape[1]), images[:GRID_IMAGES]
            (folder / "grid.png").write_bytes(png_bytes(grid(shown, math.ceil(math.sqrt(len(shown))), scale=scale)))
            if drawn.strip is not None:
                columns = len(drawn.strip) // STRIP_ROWS
                (folder / "interpolation.png").write_bytes(png_bytes(grid(drawn.strip, columns, scale=scale)))
    return _sentence(out, count, label, truncation, steps)


@contextlib.contextmanager
def _generator_of(model: str) -> Iterator[Path]:
    """Give the folder of a generator: of a registry the champion, of an address a copy."""
    from components.push.registry.location import open_registry
    from components.push.registry.registry import CHAMPION, find_version, read_champion

    if not is_address(model):
        folder = Path(local_path(model))
        champion = read_champion(folder) if (folder / CHAMPION).is_file() else None
        yield champion.path if champion else folder
        return
    registry, _, version = model.rstrip("/").partition("/versions/")
    with open_registry(registry, versions=[version or "champion"]) as folder:
        champion = None if version else read_champion(folder)
        if not version and champion is None:
            raise ConfigError(f"Nothing was published into {model} yet.", "Name a registry, or a version in one.")
        yield champion.path if champion else find_version(folder, version)


def _check(out: Path, truncation: float | None, steps: int) -> None:
    if out.exists():
        raise ConfigError(f"{out} already exists.", "Name a new folder: nothing is overwritten.")
    if truncation is not None and not truncation >= 0.01:
        raise ConfigError(f"--truncation {truncation:g} leaves no latents to draw.", "Use 0.01 or more; 2 changes little.")
    if steps == 1:
        raise ConfigError("--interpolate 1 has no way to go.", "Use 2 steps or more.")


def _sentence(out: Path, count: int, label: int | None, truncation: float | None, steps: int) -> str:
    of_label = "" if label is None else f" of label {label}"
    bounded = "" if truncation is None else f", latents within ±{truncation:g},"
    grid_of = "grid.png" if count <= GRID_IMAGES else f"grid.png of the first {GRID_IMAGES}"
    files = [grid_of, *(["interpolation.png"] if steps else [])]
    return f"Wrote {count} images{of_label}{bounded} and {' and '.join(files)} to {out}."
