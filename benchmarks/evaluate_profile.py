"""Where the time of one evaluation goes: wall and processor time of its parts; prints a table.

The work directory is new, so the extractor is trained and nothing is cached. The time of a part does not include that of parts
within it. Processor time is of this process; drawing samples takes place in another process, at the same time.

    PYTHONPATH=. python benchmarks/evaluate_profile.py DATASET MODEL [--samples 10000]
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.evaluate import run, scored, scores, useless
from components.evaluate.config import EvaluateConfig
from components.evaluate.features import damage, extractor, extractor_training
from components.evaluate.metrics import bootstrap, one_pass, table

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("extractor: other", scored, "extractor_for"),
    ("extractor: damage", damage, "damaged"),
    ("extractor: training", extractor_training, "_fit"),
    ("extractor: whitening", extractor_training, "_whitened"),
    ("extractor: test on held-out images", extractor_training, "_tested"),
    ("features", extractor.Extractor, "features_and_scores"),
    ("drawing samples, and waiting for them", run, "_draw"),
    ("real side: kernel, radii, weighted sums", scored, "cached_reference"),
    ("useless sets: other", scored, "measure_baselines"),
    ("useless sets: making them", useless, "make"),
    ("statistics of real images", scored, "real_statistics_of"),
    ("samples: other", scored, "measure"),
    ("samples, useless sets, floor: passes over all pairs", one_pass, "compare"),
    ("samples: nearest of other training images", scores, "_over_all_training_images"),
    ("samples: interval of FID", bootstrap, "fid_interval"),
    ("samples: metrics", table, "measure_all"),
    ("pictures", scored.Scored, "write_pictures"),
    ("other", run, "run"),
)


class Clock:
    """Adds up wall and processor time by part, of the main thread."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {name: [0.0, 0.0] for name, _, _ in PARTS}
        self._inner = [[0.0, 0.0]]  # time of the parts within each part that runs

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*arguments, **options)
            started = time.perf_counter(), time.process_time()
            self._inner.append([0.0, 0.0])
            try:
                return function(*arguments, **options)
            finally:
                took = time.perf_counter() - started[0], time.process_time() - started[1]
                inner = self._inner.pop()
                for index in range(2):
                    self.spent[name][index] += took[index] - inner[index]
                    self._inner[-1][index] += took[index]

        return call


def main() -> None:
    """Evaluate once and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    arguments = parser.parse_args()
    clock = Clock()
    for name, owner, function in PARTS:
        setattr(owner, function, clock.timed(name, getattr(owner, function)))
    with tempfile.TemporaryDirectory() as folder:
        config = EvaluateConfig(samples=arguments.samples)
        place = Path(folder)
        summary = run.run(config, dataset=arguments.dataset, model=arguments.model, work_dir=place / "w", out=place / "out")
    wall, processor = (sum(spent[index] for spent in clock.spent.values()) for index in range(2))
    print(f"\n{arguments.dataset.name}, {arguments.samples:,} samples: {wall:.1f} s, {processor:.1f} s of processor time\n")
    print("| Part | Wall time | Processor time | Share |\n|---|---|---|---|")
    for name, spent in clock.spent.items():
        print(f"| {name} | {spent[0]:.2f} s | {spent[1]:.2f} s | {spent[1] / processor:.1%} |")
    print(summary.model_dump_json(exclude={"provenance"}))


if __name__ == "__main__":
    main()
