"""The command line of `python -m components.generator MODEL --count N --out FILE.npy`, which draws images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from components.common.errors import PipelineError
from components.common.imports import importing_without
from components.generator.generator import find_saved_model, load, sample_batches, strip, write_batches


def main(argv: list[str] | None = None) -> int:
    """Draw images and write them as a .npy file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.generator", description="Draw images from a generator.")
    parser.add_argument("model", type=Path, help="model artifact, registry version, or SavedModel")
    parser.add_argument("--count", type=int, required=True, help="images to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", type=int, help="only images of this label")
    parser.add_argument("--truncation", type=float, help="redraw latent values outside ± this (Brock et al. 2019)")
    parser.add_argument("--interpolate", type=int, default=0, metavar="STEPS", help="images from one latent to the next")
    parser.add_argument("--strip", type=Path, help=".npy file for --interpolate: uint8 [4 × STEPS, H, W, C]")
    parser.add_argument("--out", type=Path, required=True, help=".npy file to write: uint8 [count, H, W, C]")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count {arguments.count}: at least 1 is needed")
    with importing_without("keras"):  # a SavedModel does not need it
        import tensorflow  # noqa: F401
    try:
        model = load(find_saved_model(arguments.model))
        options = {"label": arguments.label, "truncation": arguments.truncation}
        write_batches(arguments.out, sample_batches(model, arguments.count, arguments.seed, **options), arguments.count)
        if arguments.strip and arguments.interpolate:
            with arguments.strip.open("wb") as stream:
                np.save(stream, strip(model, arguments.interpolate, arguments.seed, **options), allow_pickle=False)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
