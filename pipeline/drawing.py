"""`generate`: images from a published generator, as files."""

from __future__ import annotations

import math
from pathlib import Path

from components.artifacts import atomic_directory
from components.errors import ConfigError
from components.images import grid, write_png


def draw(model: Path, out: Path, count: int, seed: int, label: int | None = None) -> str:
    """Write `count` PNGs, of one label if it is given, and grid.png into the new folder `out`; return a sentence.

    Raises ConfigError if `out` exists or the model does not know the label.
    """
    from components.generator import sample_in_fresh_process
    from components.push.registry import read_champion

    if out.exists():
        raise ConfigError(f"{out} already exists.", "Name a new folder: nothing is overwritten.")
    champion = read_champion(model) if (model / "champion.json").is_file() else None
    images = sample_in_fresh_process(champion.path if champion else model, count, seed, label)
    digits = len(str(count - 1))
    with atomic_directory(out) as folder:
        for index, image in enumerate(images):
            write_png(folder / f"{index:0{digits}d}.png", image)
        scale = max(1, 64 // images.shape[1])
        write_png(folder / "grid.png", grid(images, math.ceil(math.sqrt(count)), scale=scale))
    return f"Wrote {count} images{'' if label is None else f' of label {label}'} and grid.png to {out}."
