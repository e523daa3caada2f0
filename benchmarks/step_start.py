"""What each process of the pipeline imports, and what that costs; prints a table, then a JSON line.

It runs the quickstart with a short training, with a recorder in every process of it, then the step `snapshot`, the start of
`tpu_check` (which compiles for a minute afterwards), and commands that should start at once. A step's start ends with the
first line of its own `run`. What it imports later counts too: the imports of its whole life are the second pair of columns.
Processor time, since other loads change it least. With --before, another checkout of this repository is measured in turn.

    python benchmarks/step_start.py [--before FOLDER] [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHORT = [
    "train.rounds=20", "train.n_critic=2", "train.rounds_per_call=5", "train.generator_channels=8", "train.critic_channels=8",
    "train.precision=float32", "train.global_batch_size=16", "train.score_every_images=0", "evaluate.samples=200",
    "evaluate.extractor_epochs=1", "evaluate.kid_subset_size=100", "gate.first_share=0.0",
]  # fmt: skip
HEAVY = "tensorflow keras jax apache_beam sklearn scipy matplotlib pyarrow numpy PIL jinja2 tensorflow_metadata kubernetes rich"
COLUMNS = ("start_cpu_seconds", "start_wall_seconds", "start_modules", "import_cpu_seconds", "modules")
# Python imports a module of this name in every process: the recorder. The load test of a generator runs without it (python -I).
RECORDER = """
import atexit, builtins, importlib.machinery, json, os, resource, sys, threading, time

began, imported, inside, row, original = time.monotonic(), [0.0], threading.local(), {}, builtins.__import__

def counted(*arguments, **options):
    if getattr(inside, "an_import", False):
        return original(*arguments, **options)
    inside.an_import, before = True, time.thread_time()
    try:
        return original(*arguments, **options)
    finally:
        inside.an_import = False
        imported[0] += time.thread_time() - before

class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        row.update(step=self.name.split(".")[1], start_cpu_seconds=time.process_time(),
                   start_wall_seconds=time.monotonic() - began, start_modules=len(sys.modules))

class Finder:
    def find_spec(name, path=None, target=None):
        if name.startswith("components.") and name.endswith(".run") and not row:
            spec = importlib.machinery.PathFinder.find_spec(name, path, target)
            spec.loader = Loader(spec.loader.name, spec.loader.path)
            return spec

def write():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    row.update(words=sys.orig_argv, import_cpu_seconds=imported[0], cpu_seconds=time.process_time(), modules=len(sys.modules),
               children_cpu_seconds=children.ru_utime + children.ru_stime, heavy=[n for n in HEAVY.split() if n in sys.modules])
    row.setdefault("start_cpu_seconds", row["cpu_seconds"])
    row.setdefault("start_wall_seconds", time.monotonic() - began)
    row.setdefault("start_modules", row["modules"])
    with open(os.environ["STEP_START_LOG"], "a") as stream:
        stream.write(json.dumps(row) + "\\n")

builtins.__import__ = counted
sys.meta_path.insert(0, Finder)
atexit.register(write)
"""
SNAPSHOT = """
import os, pathlib, sys
import kfp.dsl.executor_main
from pipeline.step_runner import begin_run
begin_run(pathlib.Path(sys.argv[1]).read_text(), "kubeflow", "job", {}, [])
"""
TPU_CHECK = """
import types
import kfp.dsl.executor_main
from pipeline.step_runner import run_step
nothing = types.SimpleNamespace(path="nothing", metadata={})
run_step("tpu_check", '{"tpu_type": "v5litepod", "tpu_topology": "2x4"}', "key", "work", nothing, dataset=nothing)
"""


def measured(checkout: Path) -> dict[str, dict[str, Any]]:
    """Run every process once from this checkout; return what the recorder wrote, by the name of the step or command."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "recorder").mkdir()
        (folder / "recorder" / "sitecustomize.py").write_text(f"HEAVY = {HEAVY!r}\n{RECORDER}")
        log = folder / "log"
        environment = os.environ | {
            "PYTHONPATH": f"{folder / 'recorder'}:{checkout}",
            "STEP_START_LOG": str(log),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }

        def start(*words: str, **more: str) -> list[dict[str, Any]]:
            done = subprocess.run(
                [sys.executable, *words], cwd=folder, env=environment | more, capture_output=True, text=True, check=False
            )
            rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            assert rows, done.stderr
            log.unlink()
            return rows

        settings = [word for setting in (*SHORT, "run.dir=runs") for word in ("--set", setting)]
        rows = {_name(row): row for row in start("-m", "pipeline", "run", *settings)}
        whole = rows["push"]["children_cpu_seconds"]  # not only its imports
        rows["push: load test"] = dict.fromkeys(COLUMNS, 0) | {
            "start_cpu_seconds": whole,
            "import_cpu_seconds": whole,
            "heavy": [],
        }
        run = str(next(folder.glob("runs/*/run.json")))
        rows["snapshot"] = start("-c", SNAPSHOT, run, _KFP_RUNTIME="true")[0]
        rows["tpu_check"] = start("-c", TPU_CHECK, _KFP_RUNTIME="true")[0]
        for words in (["--help"], ["runs"], ["run", "--dry-run"]):
            rows[" ".join(["wgan-pipeline", *words])] = start("-m", "pipeline", *words)[0]
        return rows


def _name(row: dict[str, Any]) -> str:
    if "components.generator" in row["words"]:
        return "evaluate: samples"
    return "wgan-pipeline run" if "pipeline" in row["words"] else str(row.get("step", "other"))


def median(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each column."""
    return {column: round(statistics.median(row[column] for row in rows), 2) for column in COLUMNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "now": ROOT} if arguments.before else {"now": ROOT}
    runs: dict[str, list[dict[str, dict[str, Any]]]] = {name: [] for name in checkouts}
    for _ in range(arguments.runs):
        for name, checkout in checkouts.items():
            runs[name].append(measured(checkout))
    result: dict[str, Any] = {"benchmark": "step_start"}
    for name, measurements in runs.items():
        print(
            f"{name:<33}{'start: cpu s':>12} {'wall s':>7} {'modules':>8} {'imports: cpu s':>15} {'modules':>8}  large packages"
        )
        table = {step: median([run[step] for run in measurements]) for step in measurements[0]}
        for step, row in table.items():
            numbers = "{:>12} {:>7} {:>8.0f} {:>15} {:>8.0f}".format(*row.values())
            print(f"  {step:<31} {numbers}  {' '.join(measurements[0][step]['heavy'])}")
        totals = [{column: sum(row[column] for row in run.values()) for column in COLUMNS} for run in measurements]
        print(f"  {'sum':<31} {median(totals)}")
        result[name] = {"sum": median(totals), "steps": table}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
