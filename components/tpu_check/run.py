"""The tpu_check step: compile the training for its slice, or say why that cannot be."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from pathlib import Path

from components.common.artifacts import code_digest, digest_of, new_artifact, read_manifest, write_text
from components.common.errors import ConfigError
from components.common.progress import say
from components.tpu_check import compiler
from components.tpu_check.child import run_child
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import CompilerMissingError
from components.tpu_check.report import TpuCheckSummary, rows, summarise
from components.train.config import check_batch_divides

LOWERING_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(config: TpuCheckConfig, *, dataset: Path, work_dir: Path, out: Path) -> TpuCheckSummary:
    """Check the training on the images of `dataset` and write the artifact `out`; what was found once is kept in `work_dir`.

    Raises ProgramRefusedError when the training would not compile or fit, CompilerMissingError, ConfigError.
    """
    manifest = read_manifest(dataset, "dataset", verify=False)
    known = {"images": int(manifest.counts["train"]), "classes": max(2, len(manifest.details.get("label_names", [])))}
    size = {"image_size": int(manifest.details["image_size"]), "channels": int(manifest.details["channels"])}
    config = config.model_copy(update=known | size)
    summary = check(config, Path(work_dir) / "tpu_check")
    with new_artifact(out, "tpu_check", config=config, inputs={"dataset": dataset}) as writer:
        write_text(writer.path / "report.json", summary.model_dump_json(indent=1) + "\n")
        writer.details = {"topology": config.topology}
    for what, value in rows(summary):
        say(f"{what}: {value}")
    return summary


def check(config: TpuCheckConfig, cache: Path) -> TpuCheckSummary:
    """Return the report of a training on a slice, from `cache` where the same was checked before with the same code.

    Raises what `run` raises.
    """
    try:
        check_batch_divides(config.train.global_batch_size, config.slice.replicas)
    except ValueError as error:
        raise ConfigError(f"On {config.topology}, train.{error}.") from None
    compiler.check_versions()
    # As it will be on the TPU: there "auto" means bfloat16, and loops are in the program.
    config = config.model_copy(update={"train": config.train.model_copy(update={"devices": "tpu"})})
    file = cache / f"{digest_of([config.model_dump(mode='json'), code_digest('tpu_check'), _versions()])[:24]}.json"
    if file.is_file():
        return TpuCheckSummary.model_validate_json(file.read_bytes()).model_copy(update={"cached": True})
    with tempfile.TemporaryDirectory(prefix="tpu_check-") as folder:
        summary = _checked(config, Path(folder))
    write_text(file, summary.model_dump_json(indent=1))
    return summary


def _checked(config: TpuCheckConfig, folder: Path) -> TpuCheckSummary:
    say("Lowering the training call with TensorFlow")
    lowering = run_child("components.tpu_check.lowering", config, folder, LOWERING_ENVIRONMENT)
    say(f"Compiling it for {config.topology}; a minute or more")
    compiling = run_child("components.tpu_check.compiler", config, folder, compiler.ENVIRONMENT)
    figures = json.loads((folder / "figures.json").read_text())
    rounds = int((folder / "rounds").read_text())
    return summarise(config, rounds, figures, (lowering, compiling))


def _versions() -> dict[str, str]:
    try:
        return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", *compiler.EXPECTED)}
    except importlib.metadata.PackageNotFoundError:
        raise CompilerMissingError(
            "tpu-check lowers with plain tensorflow, which is not installed here; tensorflow-tpu cannot lower on a CPU.",
            "Run it where make setup ran, or in a pipeline --set deploy.tpu_check=false to go without.",
        ) from None
