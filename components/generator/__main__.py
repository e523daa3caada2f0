"""`python -m components.generator MODEL --count N --out FILE.npy`: draw images in a process of its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from components.common.errors import PipelineError
from components.generator.generator import find_saved_model, load, sample_batches, strip, write_batches


def main(argv: list[str] | None = None) -> int:
    """Draw images and write them as a .npy file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.generator", description="Draw images of a generator.")
    parser.add_argument("model", type=Path, help="model artifact, version of a registry, or SavedModel")
    parser.add_argument("--count", type=int, required=True, help="images to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", type=int, help="only images of this label")
    parser.add_argument("--truncation", type=float, help="draw values of latents beyond ± this again (Brock et al. 2019)")
    parser.add_argument("--interpolate", type=int, default=0, metavar="STEPS", help="images from one latent to the next")
    parser.add_argument("--strip", type=Path, help=".npy file for --interpolate: uint8 [4 × STEPS, H, W, C]")
    parser.add_argument("--out", type=Path, required=True, help=".npy file to write: uint8 [count, H, W, C]")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count {arguments.count}: at least 1 is needed")
    try:
        _draw_into_files(arguments)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _draw_into_files(arguments: argparse.Namespace) -> None:
    model = load(find_saved_model(arguments.model))
    given = {"label": arguments.label, "truncation": arguments.truncation}
    write_batches(arguments.out, sample_batches(model, arguments.count, arguments.seed, **given), arguments.count)
    if arguments.strip and arguments.interpolate:
        with arguments.strip.open("wb") as stream:
            np.save(stream, strip(model, arguments.interpolate, arguments.seed, **given), allow_pickle=False)


if __name__ == "__main__":
    sys.exit(main())
