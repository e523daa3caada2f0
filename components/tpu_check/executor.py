"""Runs the StableHLO of a training on N replicas through JAX: on virtual devices of a CPU, or on other devices of JAX.

    python -m components.tpu_check.executor FOLDER

FOLDER holds a bundle: program.mlir and program.json as lowering.py writes them, and arguments-000.npz, the arguments by name
(all but replica_id). arguments-001.npz and so on, if there are any, have those of further executions, without what is as in the
first one. The results are written into results-000.npz and so on, and into execution.json.
As compiler.py, this file uses private APIs of jaxlib. It imports no TensorFlow and needs no libtpu.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.errors import first_line
from components.tpu_check.compiler import check_expected, remove_copies, replica_options
from components.tpu_check.errors import ExecutionRefusedError

Array = npt.NDArray[Any]

GROUP = Path("/sys/fs/cgroup")  # control group v2, as a container sees its own


class Bundle(NamedTuple):
    """A program for N replicas, and the names of its arguments and results (lowering.Program).

    `calls` are the arrays of the arguments of each execution, by name; what a later one lacks is as in the first.
    """

    text: str
    replicas: int
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    calls: tuple[Mapping[str, Array], ...]


class Outcome(NamedTuple):
    """What a program of R rounds returned.

    `metrics` [R, 6] are step.METRICS, `variables` those that the program writes, on replica 0. `differing` are the names of
    the results that differ in any bit between replicas although they must not.
    """

    metrics: Array
    variables: dict[str, Array]
    differing: tuple[str, ...]


def environment(replicas: int) -> dict[str, str]:
    """Return the environment variables with which JAX has as many virtual CPU devices; set them before JAX is imported."""
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={replicas}"}


def read_bundle(folder: Path) -> Bundle:
    """Return the bundle in a folder."""
    names = json.loads((folder / "program.json").read_text())
    return Bundle(
        (folder / "program.mlir").read_text(),
        names["replicas"],
        tuple(names["arguments"]),
        tuple(names["results"]),
        tuple(load_arrays(file) for file in sorted(folder.glob("arguments-*.npz"))),
    )


def load_arrays(file: Path) -> dict[str, Array]:
    """Return the arrays of an .npz file by name."""
    with np.load(file) as arrays:
        return dict(arrays)


def save_arrays(file: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name into an .npz file."""
    np.savez(file, allow_pickle=False, **arrays)


def find_devices(replicas: int, backend: str = "cpu") -> list[Any]:
    """Return the first `replicas` devices of a JAX backend. Raises CompilerMissingError, ExecutionRefusedError."""
    check_expected("jax", "jaxlib")
    import jax

    jax.config.update("jax_enable_x64", True)  # Keras counts iterations in int64
    devices = jax.devices(backend)
    if len(devices) < replicas:
        raise ExecutionRefusedError(
            f"The program is for {replicas} replicas and JAX has {len(devices)} {backend} devices here."
        )
    return list(devices[:replicas])


def load(text: str, devices: Sequence[Any]) -> Any:
    """Compile StableHLO for one replica on each device; return jaxlib's loaded executable. Raises ExecutionRefusedError."""
    from jax._src.interpreters import mlir
    from jax.errors import JaxRuntimeError
    from jaxlib import _jax
    from jaxlib.mlir import ir

    with mlir.make_ir_context(), ir.Location.unknown():
        try:
            module = ir.Module.parse(text)
            _drop_attributes(module)
            remove_copies(module.operation)
            options = replica_options([device.id for device in devices])
            return devices[0].client.compile_and_load(module, _jax.DeviceList(tuple(devices)), options)
        except (JaxRuntimeError, ir.MLIRError) as error:
            platform = devices[0].platform.upper()
            raise ExecutionRefusedError(f"XLA's compiler for {platform} refuses the program: {first_line(error)}.") from None


def _drop_attributes(module: Any) -> None:
    """Remove what TensorFlow states for its own runtime: properties of the module (mhlo.*), channels of collectives.

    With a channel, XLA's CPU compiler fails with "layout minor_to_major field contains 1 elements".
    """
    from jaxlib.mlir import ir

    for attribute in list(module.operation.attributes):
        name = attribute if isinstance(attribute, str) else attribute.name
        if name.startswith("mhlo."):
            del module.operation.attributes[name]

    def without_channel(operation: Any) -> Any:
        if "channel_handle" in operation.attributes:
            del operation.attributes["channel_handle"]
        return ir.WalkResult.ADVANCE

    module.operation.walk(without_channel)


def needed_bytes(loaded: Any, replicas: int) -> int:
    """Return the bytes that the program needs on all replicas: arguments, results and temporaries, by XLA's count."""
    memory = loaded.get_compiled_memory_stats()
    return int(replicas * (memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes))


def check_memory(needed: int, replicas: int, available: int) -> None:
    """Raise ExecutionRefusedError, with the sizes in GB, if a program needs more bytes than are available."""
    if needed > available:
        raise ExecutionRefusedError(
            f"{replicas} replicas of the program need {needed / 1e9:.2f} GB of memory; {available / 1e9:.2f} GB are available.",
            "Execute fewer images, channels or replicas, or give the check more memory.",
        )


def available_bytes() -> int:
    """Return the memory that this process can still use: of the machine, or of its control group if that is less (Linux)."""
    machine = _kilobytes("/proc/meminfo", "MemAvailable") * 1024
    limit = GROUP / "memory.max"
    if not limit.is_file() or limit.read_text().strip() == "max":
        return machine
    statistics = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
    used = int((GROUP / "memory.current").read_text()) - int(statistics["inactive_file"])  # the page cache can be dropped
    return min(machine, int(limit.read_text()) - used)


def _kilobytes(file: str, name: str) -> int:
    """Return the number of a line "name: number kB" of a file of /proc."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def place(bundle: Bundle, call: int, devices: Sequence[Any]) -> list[Any]:
    """Return a call's arguments as arrays of JAX that every device holds whole; replica_id is another number on each device."""
    import jax

    mesh = jax.sharding.Mesh(np.array(devices), ("replica",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arrays, placed = {**bundle.calls[0], **bundle.calls[call]}, []
    for name in bundle.arguments:
        here = [np.array(index, np.int32) if name == "replica_id" else arrays[name] for index in range(len(devices))]
        singles = [jax.device_put(array, device) for array, device in zip(here, devices, strict=True)]
        placed.append(jax.make_array_from_single_device_arrays(here[0].shape, whole, singles))
    return placed


def run(loaded: Any, placed: Sequence[Any]) -> list[list[Any]]:
    """Run an executable once; return the results in order, each as one array of JAX for each replica.

    Raises ExecutionRefusedError if it fails.
    """
    import jax
    from jax.errors import JaxRuntimeError

    try:
        results = loaded.execute_sharded(placed).disassemble_into_single_device_arrays()
        jax.block_until_ready(results)
    except JaxRuntimeError as error:
        raise ExecutionRefusedError(f"The program failed while it ran: {first_line(error)}.") from None
    return list(results)


def outcome_of(bundle: Bundle, results: Sequence[Sequence[Any]]) -> Outcome:
    """Return the results of `run`: parts of metrics summed over replicas, everything else as on replica 0."""
    arrays = {name: [np.asarray(array) for array in replicas] for name, replicas in zip(bundle.results, results, strict=True)}
    parts = np.sum(arrays.pop("part_metrics"), axis=0, dtype=np.float32)
    differing = [name for name, (first, *rest) in arrays.items() if any(first.tobytes() != each.tobytes() for each in rest)]
    metrics = np.concatenate([parts, arrays.pop("whole_metrics")[0]], axis=1)
    return Outcome(metrics, {name: replicas[0] for name, replicas in arrays.items()}, tuple(differing))


def execute(folder: Path, backend: str = "cpu") -> None:
    """Run the bundle in a folder. Raises ExecutionRefusedError, CompilerMissingError.

    Writes the results of each call (metrics and variables) and execution.json (differing results, seconds, bytes).
    """
    bundle = read_bundle(folder)
    devices = find_devices(bundle.replicas, backend)
    started = time.monotonic()
    loaded = load(bundle.text, devices)
    compiled, needed = time.monotonic(), needed_bytes(loaded, bundle.replicas)
    if backend == "cpu":
        check_memory(needed, bundle.replicas, available_bytes())
    differing: set[str] = set()
    for call in range(len(bundle.calls)):
        outcome = outcome_of(bundle, run(loaded, place(bundle, call, devices)))
        differing.update(outcome.differing)
        save_arrays(folder / f"results-{call:03}.npz", {"metrics": outcome.metrics, **outcome.variables})
    figures = {
        "differing": [name for name in bundle.results if name in differing],
        "compile_seconds": round(compiled - started, 1),
        "run_seconds": round(time.monotonic() - compiled, 1),
        "needed_bytes": needed,
        "peak_memory_bytes": _kilobytes("/proc/self/status", "VmHWM") * 1024,
    }
    (folder / "execution.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    from components.tpu_check.subprocesses import main

    raise SystemExit(main(lambda _, folder: execute(folder)))
