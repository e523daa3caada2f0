"""Compiles StableHLO for the chips of a slice with libtpu, without a TPU.

    python -m components.tpu_check.compiler FOLDER

No public API leads from StableHLO text to libtpu's compiler. Only this file and executor.py use private ones, so they accept
only the versions in EXPECTED. Imports no TensorFlow, and JAX only when it is needed.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.errors import first_line
from components.tpu_check.errors import CompilerMissingError, ProgramRefusedError
from components.tpu_check.hlo import HloModule
from components.tpu_check.reductions import check_reductions

if TYPE_CHECKING:  # executor.py also runs where pydantic is not installed
    from components.tpu_check.config import TpuCheckConfig

EXPECTED = {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.52"}
# Without the first four, libtpu queries Google Cloud's metadata server for minutes. Without the last, libtpu's lock file makes
# a second check at the same time fail, although neither opens a device.
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


def check_versions() -> dict[str, str]:
    """Return the versions of the packages that a check uses; raise CompilerMissingError unless they are the expected ones."""
    installed = check_expected(*EXPECTED) | {name: _version(name) for name in ("tensorflow", "keras")}
    if not installed["tensorflow"]:
        raise CompilerMissingError(
            "tpu-check needs plain tensorflow, which is not installed here; tensorflow-tpu cannot lower on a CPU.",
            "Run it where make setup ran, or leave the check out of a pipeline: --set deploy.tpu_check=false.",
        )
    return installed


def check_expected(*names: str) -> dict[str, str]:
    """Return the versions of these packages; raise CompilerMissingError unless they are those in EXPECTED."""
    installed = {name: _version(name) for name in names}
    if wrong := [f"{name} {version or 'missing'}" for name, version in installed.items() if version != EXPECTED[name]]:
        expected = " ".join(f"{name}=={EXPECTED[name]}" for name in names)
        raise CompilerMissingError(
            f"tpu-check needs {expected}; found here: {', '.join(wrong)}.",
            'pip install "wgan-tpu-pipeline[tpu-check]", or leave the check out of a pipeline: --set deploy.tpu_check=false.',
        )
    return installed


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@contextmanager
def parsed(text: str) -> Iterator[Any]:
    """Provide jaxlib's module of a StableHLO text; it and all that it holds are valid only inside."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context(), ir.Location.unknown():
        yield ir.Module.parse(text)


def compile_program(config: TpuCheckConfig, text: str) -> tuple[Any, str]:
    """Compile StableHLO for the slice; return jaxlib's executable and its optimised HLO text.

    Raises ProgramRefusedError with the compiler's reason.
    """
    from jax._src.interpreters import mlir
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies
    from jaxlib import _jax
    from jaxlib.mlir import ir

    try:
        devices = topologies.get_topology_desc(config.topology, "tpu").devices
    except JaxRuntimeError as error:
        raise ProgramRefusedError(f"libtpu does not know the slice {config.topology}: {first_line(error)}.") from None
    options = replica_options([*range(config.slice.replicas)])
    with mlir.make_ir_context(), ir.Location.unknown():
        module = ir.Module.parse(text)
        remove_copies(module.operation)
        try:
            compiled = devices[0].client.compile(module, _jax.DeviceList(tuple(devices)), options)
        except JaxRuntimeError as error:
            raise refusal(str(error), config) from None
    return compiled, compiled.hlo_modules()[0].to_string()


def replica_options(devices: list[int]) -> Any:
    """Return jaxlib's options to compile for one replica on each of these devices."""
    import numpy as np
    from jaxlib import _jax

    options = _jax.CompileOptions()
    build = options.executable_build_options
    options.num_replicas = build.num_replicas = len(devices)
    options.num_partitions = build.num_partitions = 1
    build.device_assignment = _jax.DeviceAssignment.create(np.array(devices).reshape(-1, 1))
    return options


def remove_copies(operation: Any) -> None:
    """Replace each of TensorFlow's mhlo.copy, which the compiler does not accept, by its operand."""
    for region in operation.regions:
        for block in region:
            for inner in list(block.operations):
                remove_copies(inner)
                if inner.operation.name == "mhlo.copy":
                    inner.operation.results[0].replace_all_uses_with(inner.operation.operands[0])
                    inner.operation.erase()


def refusal(message: str, config: TpuCheckConfig) -> ProgramRefusedError:
    """Return the error for a compiler message: how much memory is missing, or the message's first line."""
    match = OUT_OF_MEMORY.search(message)
    if not match:
        return ProgramRefusedError(f"The compiler for {config.topology} refuses the program: {first_line(message)}.")
    needed, available = float(match[1]) * UNITS[match[2].upper()], float(match[3]) * UNITS[match[4].upper()]
    batch, unit = config.train.global_batch_size, "chip" if config.slice.generation.replicas_per_chip == 1 else "core"
    return ProgramRefusedError(
        f"The program needs {needed / 1e9:.1f} GB of HBM and a {config.slice.generation.name} {unit} has"
        f" {available / 1e9:.1f} GB: {(needed - available) / 1e9:.1f} GB too much.",
        f"Lower train.global_batch_size (now {batch}, {batch // config.slice.replicas} images a {unit}) or the channels,"
        " or use a larger slice.",
    )


def xla_costs(text: str) -> Callable[[str, str], float]:
    """Return a function of (computation, property): XLA's cost of one computation, which counts each loop body once."""
    import jax
    from jaxlib import _hlo, _jax

    client = jax.devices("cpu")[0].client
    known: dict[str, Any] = {}

    def cost(computation: str, name: str) -> float:
        if computation not in known:
            module = _hlo.hlo_module_from_text(with_entry(text, computation))
            known[computation] = _jax.hlo_module_cost_analysis(client, module)
        return float(known[computation].get(name, 0.0))

    return cost


def with_entry(text: str, computation: str) -> str:
    """Return the module with `computation` as its entry, the one that XLA's cost analysis reads."""
    _, _, body = text.partition("\n")
    body = re.sub(r"^ENTRY ", "", body, flags=re.MULTILINE)
    body = re.sub(rf"^%{re.escape(computation)} \(", lambda match: f"ENTRY {match[0]}", body, flags=re.MULTILINE)
    return f"HloModule part\n{body}"


def program_figures(compiled: Any, text: str, rounds: int) -> dict[str, float]:
    """Return the figures of a program of `rounds` rounds by their names in the report; every loop is counted in full."""
    memory, module, cost = compiled.get_compiled_memory_stats(), HloModule(text), xla_costs(text)
    output_bytes = memory.output_size_in_bytes - memory.alias_size_in_bytes
    # The executable's own analysis includes the padding of arrays, that of single computations does not: scale by the ratio.
    padding = compiled.cost_analysis()["bytes accessed"] / cost(module.entry, "bytes accessed")
    moved = padding * module.total(lambda name: cost(name, "bytes accessed"))
    all_reduces, all_reduce_bytes = module.all_reduces()
    convolutions, bfloat16_convolutions = module.convolutions()
    return {
        "peak_hbm_bytes": memory.argument_size_in_bytes
        + output_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        "program_bytes": memory.generated_code_size_in_bytes,
        "rounds_a_call": rounds,
        "flops_a_round": module.total(lambda name: cost(name, "flops")) / rounds,
        "bytes_a_round": moved / rounds,
        "hbm_bytes_a_round": max(0.0, moved - module.vmem_bytes()) / rounds,
        "all_reduces_a_round": all_reduces / rounds,
        "all_reduce_bytes_a_round": all_reduce_bytes / rounds,
        "convolutions": convolutions,
        "bfloat16_convolutions": bfloat16_convolutions,
        "host_transfers_in_a_call": module.host_transfers(),
        "unknown_loops": sum(loop.trips == 0 for loop in module.loops),
    }


def _work(config: TpuCheckConfig, folder: Path) -> None:
    check_versions()
    text, described = (folder / "program.mlir").read_text(), json.loads((folder / "program.json").read_text())
    with parsed(text) as module:
        sums = check_reductions(module, described["arguments"], described["results"], config.slice.replicas)
    compiled, text = compile_program(config, text)
    (folder / "program.hlo").write_text(text)
    figures = program_figures(compiled, text, described["rounds"]) | {"gradients_summed_once": sums}
    (folder / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    from components.tpu_check.subprocesses import main

    raise SystemExit(main(_work))
