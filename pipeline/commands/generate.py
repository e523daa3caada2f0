"""`generate`: images from a published generator, as files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from components.common.addresses import is_address, local_path
from components.common.artifacts import new_directory
from components.common.errors import ConfigError

GRID_IMAGES = 400  # with more, the images are too small to see and the file too large to open


def generate(
    model: Annotated[
        str, typer.Argument(help="Registry or version (folder, gs:// or s3:// URL), model artifact or SavedModel.")
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for the images.")],
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")] = 0,
    label: Annotated[
        int | None, typer.Option(min=0, help="Only images of this label; the model must be trained with train.conditional.")
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Redraw latent values beyond ± this: more typical, less varied images (Brock et al. 2019)."),
    ] = None,
    interpolate: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Also draw rows of this many images between two latents.")
    ] = 0,
) -> None:
    """Draw images with a generator: one PNG each and a grid."""
    from components.common.images import grid, png_bytes
    from components.generator.generator import STRIP_ROWS, drawn_in_fresh_process

    _check(out, truncation, interpolate)
    digits = len(str(count - 1))
    with (
        generator_folder(model) as source,
        drawn_in_fresh_process(source, count, seed, label, truncation=truncation, steps=interpolate) as drawn,
    ):
        images = drawn.images
        with new_directory(out) as folder:
            for index, image in enumerate(images):
                (folder / f"{index:0{digits}d}.png").write_bytes(png_bytes(image))
            scale, shown = max(1, 64 // images.shape[1]), images[:GRID_IMAGES]
            (folder / "grid.png").write_bytes(png_bytes(grid(shown, math.ceil(math.sqrt(len(shown))), scale=scale)))
            if drawn.strip is not None:
                columns = len(drawn.strip) // STRIP_ROWS
                (folder / "interpolation.png").write_bytes(png_bytes(grid(drawn.strip, columns, scale=scale)))
    of_label = "" if label is None else f" of label {label}"
    bounded = "" if truncation is None else f", latents within ±{truncation:g},"
    grid_file = "grid.png" if count <= GRID_IMAGES else f"grid.png of the first {GRID_IMAGES}"
    files = [grid_file, *(["interpolation.png"] if interpolate else [])]
    print(f"Wrote {count} images{of_label}{bounded} and {' and '.join(files)} to {out}.")


@contextlib.contextmanager
def generator_folder(model: str) -> Iterator[Path]:
    """Yield the folder of a generator: the champion of a registry, a local copy of a URL."""
    from components.registry.registry import Registry

    location, _, version = model.rstrip("/").partition("/versions/") if is_address(model) else (model, "", "")
    registry = Registry(location)
    if version:
        registry.find_version(version, registry.state())
    elif champion := registry.champion():
        version = champion.version
    elif is_address(model):
        raise ConfigError(f"Nothing was published to {model} yet.", "Name a registry, or a version in one.")
    with registry.open_version(version) if version else contextlib.nullcontext(Path(local_path(model))) as folder:
        yield folder


def _check(out: Path, truncation: float | None, steps: int) -> None:
    if out.exists():
        raise ConfigError(f"{out} already exists.", "Name a new folder: nothing is overwritten.")
    if truncation is not None and not truncation >= 0.01:
        raise ConfigError(f"--truncation {truncation:g} leaves no latents to draw.", "Use 0.01 or more; 2 changes little.")
    if steps == 1:
        raise ConfigError("--interpolate 1 is not an interpolation.", "Use 2 steps or more.")
