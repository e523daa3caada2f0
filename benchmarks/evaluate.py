"""How much faster computing all scores in one pass over shared inner products is than one metric at a time; prints a JSON line.

FID, KID, precision, recall, density and coverage of 10,000 fake against 10,000 real features of 2,048 dimensions, k = 5:
  ours   components/evaluate/metrics/one_pass.py: each inner product once, in tiles; also with the real side cached
  plain  each metric separately, as in its paper: whole float32 matrices, SciPy's sqrtm for FID, KID over all images,
         precision and recall, then density and coverage, each with its own three products
Every measurement is a new process, because its peak memory is measured too; plain and ours alternate.

    python benchmarks/evaluate.py [--images 10000] [--dimensions 2048] [--pairs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
K = 5
NAMES = ("fid", "kid", "precision", "recall", "density", "coverage")


def features(seed: int, shift: float, scale: float, images: int, dimensions: int) -> Floats:
    """Return correlated, non-negative features, like those of a ReLU network."""
    generator = np.random.default_rng(seed)
    mixing = (np.random.default_rng(1234).standard_normal((16, dimensions)) / 4).astype(np.float32)
    latents = generator.standard_normal((images, 16), np.float32)
    noise = generator.standard_normal((images, dimensions), np.float32)
    noise *= np.float32(0.5)
    noise += (latents @ mixing) * np.float32(scale) + np.float32(shift)
    return np.maximum(0, noise, out=noise)


def ours(real: Floats, fake: Floats) -> tuple[dict[str, float], dict[str, float]]:
    from components.evaluate.metrics import kid, one_pass

    started = time.perf_counter()
    side = one_pass.real_side(real, K)
    between = time.perf_counter()
    found = one_pass.compare(real, fake, K, side)
    seconds = {"all": time.perf_counter() - started, "real_side_cached": time.perf_counter() - between}
    return {"fid": found.fid, "kid": kid.statistics_to_metric(found.sums), **found.shares._asdict()}, seconds


def plain(real: Floats, fake: Floats) -> tuple[dict[str, float], dict[str, float]]:
    scores: dict[str, float] = {}
    seconds: dict[str, float] = {}
    metrics: tuple[Callable[[Floats, Floats], dict[str, float]], ...] = (
        plain_fid,
        plain_kid,
        plain_precision_recall,
        plain_density_coverage,
    )
    for metric in metrics:
        started = time.perf_counter()
        scores |= metric(real, fake)
        seconds[metric.__name__.removeprefix("plain_")] = time.perf_counter() - started
    return scores, {"all": sum(seconds.values()), **seconds}


def plain_fid(real: Floats, fake: Floats) -> dict[str, float]:
    from scipy.linalg import sqrtm

    ours, theirs = (np.cov(each, rowvar=False, dtype=np.float32) for each in (real, fake))
    difference = real.mean(axis=0) - fake.mean(axis=0)
    root = sqrtm(ours @ theirs)
    return {"fid": float(difference @ difference + np.trace(ours) + np.trace(theirs) - 2 * np.trace(root).real)}


def plain_kid(real: Floats, fake: Floats) -> dict[str, float]:
    def kernel(x: Floats, y: Floats) -> Floats:
        return np.asarray((x @ y.T / np.float32(x.shape[1]) + np.float32(1)) ** 3)

    def mean_of_pairs(kernel: Floats) -> float:
        size = len(kernel)
        return (float(kernel.sum(dtype=np.float64)) - float(np.trace(kernel, dtype=np.float64))) / (size * (size - 1))

    within = mean_of_pairs(kernel(real, real)) + mean_of_pairs(kernel(fake, fake))
    return {"kid": within - 2 * float(kernel(real, fake).mean(dtype=np.float64))}


def plain_distances(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)[None] - 2 * (x @ y.T), 0)


def plain_radii(x: Floats) -> Floats:
    return np.asarray(np.partition(plain_distances(x, x), K, axis=1)[:, K])


def plain_precision_recall(real: Floats, fake: Floats) -> dict[str, float]:
    real_radii, fake_radii, distances = plain_radii(real), plain_radii(fake), plain_distances(real, fake)
    precision = (distances < real_radii[:, None]).any(axis=0).mean()
    return {"precision": float(precision), "recall": float((distances < fake_radii[None]).any(axis=1).mean())}


def plain_density_coverage(real: Floats, fake: Floats) -> dict[str, float]:
    in_ball = plain_distances(real, fake) < plain_radii(real)[:, None]
    return {"density": float(in_ball.sum(axis=0).mean() / K), "coverage": float(in_ball.any(axis=1).mean())}


def measure_here(what: str, images: int, dimensions: int) -> None:
    real, fake = features(1, 0.0, 1.0, images, dimensions), features(2, 0.1, 1.1, images, dimensions)
    scores, seconds = (ours if what == "ours" else plain)(real, fake)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"scores": scores, "seconds": seconds, "peak_mb": peak}))


def measure_in_subprocess(what: str, images: int, dimensions: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", what, "--images", str(images), "--dimensions", str(dimensions)]
    # A BLAS kernel or cache size that is set for another program could slow down one side more than the other.
    environment = {name: value for name, value in os.environ.items() if name not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(images: int, dimensions: int, pairs: int) -> dict[str, Any]:
    turns = [tuple(measure_in_subprocess(what, images, dimensions) for what in ("ours", "plain")) for _ in range(pairs)]
    new, old = turns[0]

    def median(values: list[float], digits: int = 2) -> float:
        return round(statistics.median(values), digits)

    def without_fid(found: dict[str, Any]) -> float:
        return float(found["seconds"]["all"] - found["seconds"]["fid"])

    return {
        "benchmark": "evaluate",
        "images": images,
        "dimensions": dimensions,
        "pairs": pairs,
        "cores": len(os.sched_getaffinity(0)),
        "plain_over_ours": median([theirs["seconds"]["all"] / mine["seconds"]["all"] for mine, theirs in turns]),
        "plain_without_fid_over_all_of_ours": median([without_fid(t) / m["seconds"]["all"] for m, t in turns]),
        "plain_over_ours_real_side_cached": median([t["seconds"]["all"] / m["seconds"]["real_side_cached"] for m, t in turns]),
        "our_seconds": {name: median([m["seconds"][name] for m, _ in turns]) for name in new["seconds"]},
        "plain_seconds": {name: median([t["seconds"][name] for _, t in turns]) for name in old["seconds"]},
        "our_peak_mb": round(max(m["peak_mb"] for m, _ in turns)),
        "plain_peak_mb": round(max(t["peak_mb"] for _, t in turns)),
        "largest_relative_difference": max(abs(new["scores"][name] / old["scores"][name] - 1) for name in NAMES),
        "scores": {name: round(value, 6) for name, value in new["scores"].items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=2_048)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--child", choices=("ours", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure_here(arguments.child, arguments.images, arguments.dimensions)
        return
    print(json.dumps(measure(arguments.images, arguments.dimensions, arguments.pairs)))


if __name__ == "__main__":
    main()
