"""The tpu_check step: compiles the training for its slice and may execute it, or reports what is wrong with it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from components.common.artifacts import code_digest, digest_of, new_artifact, read_manifest, write_text
from components.common.errors import ConfigError
from components.common.progress import say
from components.common.store import Location, Store, store_at
from components.tpu_check import compiler, parity
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.report import TpuCheckSummary, rows, summarise
from components.tpu_check.subprocesses import run_subprocess
from components.train.config import check_batch_divides

CACHE = "tpu_check"  # folder of the work directory


def run(config: TpuCheckConfig, *, dataset: Path, work_dir: Location, out: Path) -> TpuCheckSummary:
    """Check the training with the number of images in `dataset`, write the artifact `out`, and cache results in `work_dir`.

    Raises ProgramRefusedError if the training does not compile or fit, or if its program, executed, does not train as the CPU
    does; CompilerMissingError, ConfigError.
    """
    manifest = read_manifest(dataset, "dataset", verify=False)
    known = {"images": int(manifest.counts["train"]), "classes": max(2, len(manifest.details.get("label_names", [])))}
    size = {name: int(manifest.details[name]) for name in ("image_size", "channels")}
    config = config.model_copy(update=known | size)
    summary = check(config, store_at(work_dir, CACHE))
    with new_artifact(out, "tpu_check", config=config, inputs={"dataset": dataset}) as writer:
        write_text(writer.path / "report.json", summary.model_dump_json(indent=1) + "\n")
        writer.details = {"topology": config.topology}
    for name, value in rows(summary):
        say(f"{name}: {value}")
    return summary


def check(config: TpuCheckConfig, cache: Store) -> TpuCheckSummary:
    """Return the report of a training on a slice: from `cache` if the same code has checked the same config, else compiled.

    Raises what `run` raises.
    """
    try:
        check_batch_divides(config.train.global_batch_size, config.slice.replicas)
    except ValueError as error:
        raise ConfigError(f"On {config.topology}, train.{error}.") from None
    versions = compiler.check_versions()
    # On a TPU, precision "auto" means bfloat16, and the rounds of a call are a loop of the program.
    config = config.model_copy(update={"train": config.train.model_copy(update={"devices": "tpu"})})
    name = f"{digest_of([config.model_dump(mode='json'), code_digest('tpu_check'), versions])[:24]}.json"
    with contextlib.suppress(FileNotFoundError):
        return TpuCheckSummary.model_validate_json(cache.read(name)).model_copy(update={"cached": True})
    with tempfile.TemporaryDirectory(prefix="tpu_check-") as folder:
        summary = _compile(config, Path(folder))
    if config.execute_rounds:
        summary = summary.model_copy(update={"executed": _execute(config)})
    cache.write(name, [summary.model_dump_json(indent=1).encode()])
    return summary


def _compile(config: TpuCheckConfig, folder: Path) -> TpuCheckSummary:
    say("Lowering the training call with TensorFlow")
    lowering = run_subprocess("components.tpu_check.lowering", config, folder, parity.TENSORFLOW_ENVIRONMENT)
    say(f"Compiling it for {config.topology}; this takes a minute or more")
    compiling = run_subprocess("components.tpu_check.compiler", config, folder, compiler.ENVIRONMENT)
    figures = json.loads((folder / "figures.json").read_text())
    return summarise(config, figures, (lowering, compiling))


def _execute(config: TpuCheckConfig) -> tuple[parity.Execution, ...]:
    """Execute the program in float32, where the bounds are tight, and in bfloat16 if it trains in that."""
    executions = []
    for precision in ("float32",) if config.train.precision == "float32" else ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory(prefix="tpu_check-") as folder:
            executions.append(parity.execute(config, precision, Path(folder)))
    return tuple(executions)
