"""The TPU compiler without a TPU: StableHLO to a program for the chips of a slice. The only file with private entry points.

    python -m components.tpu_check.compiler FOLDER

libtpu compiles for a slice that is not there, but nothing public leads from StableHLO text to it; so this holds for the
versions in EXPECTED and refuses any other.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.errors import first_line
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import CompilerMissingError, ProgramRefusedError
from components.tpu_check.program import Program

EXPECTED = {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.52"}
# Without the first four, libtpu asks Google Cloud's metadata server where it is, for minutes; without the last, a second check
# at the same time fails on libtpu's lock file, though neither opens a device.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# "… total memory required for HLO temporaries (34.16G) exceeds available HBM (15.75G)", "Used 20.50G of 15.75G hbm"
OUT_OF_MEMORY = re.compile(r"\b([\d.]+)([KMGT])\)? (?:exceeds available HBM|of) \(?([\d.]+)([KMGT])\b", re.IGNORECASE)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def check_versions() -> None:
    """Raise CompilerMissingError unless the compiler is installed in the versions that this file was written for."""
    found = {name: _version(name) for name in EXPECTED}
    missing = [name for name, version in found.items() if version is None]
    wanted = " ".join(f"{name}=={version}" for name, version in EXPECTED.items())
    if missing:
        raise CompilerMissingError(
            f"The TPU compiler is not installed here ({', '.join(missing)} missing).",
            'pip install "wgan-tpu-pipeline[tpu-check]", or in a pipeline --set deploy.tpu_check=false to go without.',
        )
    wrong = [f"{name} {version}" for name, version in found.items() if version != EXPECTED[name]]
    if wrong:
        raise CompilerMissingError(f"tpu-check was written for {wanted}; here is {', '.join(wrong)}.", f"pip install {wanted}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def compile_program(config: TpuCheckConfig, text: str) -> tuple[Any, str]:
    """Compile StableHLO for the slice; return jaxlib's executable and its optimised HLO text.

    Raises ProgramRefusedError with the compiler's reason.
    """
    import numpy as np
    from jax._src.interpreters import mlir
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies
    from jaxlib import _jax
    from jaxlib.mlir import ir

    try:
        devices = topologies.get_topology_desc(config.topology, "tpu").devices
    except JaxRuntimeError as error:
        raise ProgramRefusedError(f"libtpu knows no slice {config.topology}: {first_line(error)}.") from None
    replicas = config.slice.replicas
    options = _jax.CompileOptions()
    build = options.executable_build_options
    options.num_replicas = build.num_replicas = replicas
    options.num_partitions = build.num_partitions = 1
    build.device_assignment = _jax.DeviceAssignment.create(np.arange(replicas).reshape(replicas, 1))
    with mlir.make_ir_context(), ir.Location.unknown():
        module = ir.Module.parse(text)
        _without_copies(module.operation)
        try:
            compiled = devices[0].client.compile(module, _jax.DeviceList(tuple(devices)), options)
        except JaxRuntimeError as error:
            raise refusal(str(error), config) from None
    return compiled, compiled.hlo_modules()[0].to_string()


def _without_copies(operation: Any) -> None:
    """Replace TensorFlow's mhlo.copy, which the compiler does not take, by what it copies."""
    for region in operation.regions:
        for block in region:
            for inner in list(block.operations):
                _without_copies(inner)
                if inner.operation.name == "mhlo.copy":
                    inner.operation.results[0].replace_all_uses_with(inner.operation.operands[0])
                    inner.operation.erase()


def refusal(message: str, config: TpuCheckConfig) -> ProgramRefusedError:
    """Put the compiler's message into a sentence: out of memory by how much, or its own first line."""
    match = OUT_OF_MEMORY.search(message)
    if not match:
        return ProgramRefusedError(f"The compiler for {config.topology} refuses the program: {first_line(message)}.")
    used, have = float(match[1]) * UNITS[match[2].upper()], float(match[3]) * UNITS[match[4].upper()]
    batch, unit = config.train.global_batch_size, "chip" if config.slice.generation.replicas_per_chip == 1 else "core"
    return ProgramRefusedError(
        f"The program needs {used / 1e9:.1f} GB of HBM and a {config.slice.generation.name} {unit} has {have / 1e9:.1f} GB:"
        f" {(used - have) / 1e9:.1f} GB too much.",
        f"Lower train.global_batch_size (now {batch}, {batch // config.slice.replicas} images a {unit}) or the channels,"
        " or take a larger slice.",
    )


def once(text: str) -> Callable[[str, str], float]:
    """Return XLA's own cost of one property of one computation of a module, the body of each loop in it counted once."""
    import jax
    from jaxlib import _hlo, _jax

    client = jax.devices("cpu")[0].client
    known: dict[str, Any] = {}

    def cost(computation: str, name: str) -> float:
        if computation not in known:
            known[computation] = _jax.hlo_module_cost_analysis(client, _hlo.hlo_module_from_text(entered_at(text, computation)))
        return float(known[computation].get(name, 0.0))

    return cost


def entered_at(text: str, computation: str) -> str:
    """Return the module with another computation as its entry, which is what cost analysis looks at."""
    _, _, body = text.partition("\n")
    body = re.sub(r"^ENTRY ", "", body, flags=re.MULTILINE)
    body = re.sub(rf"^%{re.escape(computation)} \(", lambda match: f"ENTRY {match[0]}", body, flags=re.MULTILINE)
    return f"HloModule part\n{body}"


def figures(compiled: Any, text: str) -> dict[str, float]:
    """Return what the report is made of: memory, and the costs of one run of the program with all loops counted fully."""
    memory, program, cost = compiled.get_compiled_memory_stats(), Program(text), once(text)
    totals = compiled.cost_analysis()
    # The executable knows the padding of its arrays, the analysis of its parts does not: the ratio carries it over.
    padding = totals["bytes accessed"] / cost(program.entry, "bytes accessed")
    reduces, reduced_bytes = program.reduced()
    convolutions, in_bfloat16 = program.convolutions()
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "program_bytes": memory.generated_code_size_in_bytes,
        "flops": program.full(lambda name: cost(name, "flops")),
        "bytes_accessed": padding * program.full(lambda name: cost(name, "bytes accessed")),
        "on_chip_bytes": program.on_chip_bytes(),
        "all_reduces": reduces,
        "all_reduce_bytes": reduced_bytes,
        "convolutions": convolutions,
        "bfloat16_convolutions": in_bfloat16,
        "host_transfers": program.host_transfers(),
        "loops": len(program.loops),
        "unknown_loops": sum(loop.turns == 0 for loop in program.loops),
    }


def _work(config: TpuCheckConfig, folder: Path) -> None:
    check_versions()
    compiled, text = compile_program(config, (folder / "program.mlir").read_text())
    (folder / "program.hlo").write_text(text)
    (folder / "figures.json").write_text(json.dumps(figures(compiled, text)))


if __name__ == "__main__":
    from components.tpu_check.child import main

    raise SystemExit(main(_work))
