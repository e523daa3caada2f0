"""The distribution strategy of a CPU, a GPU or a TPU.

What else differs between devices is in the other files of this folder, and in data/on_device.py.
"""

from __future__ import annotations

import socket

import tensorflow as tf

from components.common.errors import DeviceError, first_line
from components.train.config import TrainConfig, check_batch_divides
from components.train.devices import gpu_runtime, tpu_runtime

CONNECT_SECONDS = 10


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """Return the strategy for `config.devices`, with its devices initialized. Raises DeviceError.

    `cpu:N` creates N virtual devices, which is possible only before TensorFlow first uses the CPU.
    """
    kind, _, name = config.devices.partition(":")
    strategy = {"cpu": _cpu, "gpu": _gpu, "tpu": _tpu}[kind](name)
    try:
        check_batch_divides(config.global_batch_size, strategy.num_replicas_in_sync)
    except ValueError as error:
        raise DeviceError(f"train.{error}.") from None
    return strategy


def _cpu(count: str) -> tf.distribute.Strategy:
    replicas = int(count)
    if replicas == 1:
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    except RuntimeError:  # already initialized
        if (running := len(tf.config.list_logical_devices("CPU"))) < replicas:
            raise DeviceError(
                f"TensorFlow already runs with {running} virtual CPU devices; train.devices needs {replicas}.",
                "Start a new process.",
            ) from None
    # Collectives are no faster on virtual CPUs, and a process cannot change their group size later ("joining a group with
    # size 4, but that group has size 2").
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(replicas)], cross_device_ops=reduction)


def _gpu(_: str) -> tf.distribute.Strategy:
    try:
        gpus = tf.config.list_logical_devices("GPU")
    except tf.errors.OpError as error:  # TensorFlow cannot use the driver
        raise gpu_runtime.why_no_gpu(_reason(error)) from None
    if not gpus:
        raise gpu_runtime.why_no_gpu()
    return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])


def _tpu(name: str) -> tf.distribute.Strategy:
    devices = f"tpu:{name}" if name else "tpu"
    tpu_runtime.confirm(devices)
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
        if name:
            _check_workers(devices, resolver)
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        raise DeviceError(
            f'train.devices = "{devices}", but no TPU responds ({_reason(error)}).',
            "Check the TPU with the commands of docs/tpu.md, or use --set train.devices=cpu:1.",
        ) from None


def _check_workers(devices: str, resolver: tf.distribute.cluster_resolver.TPUClusterResolver) -> None:
    """Raise DeviceError if a worker accepts no connection; TensorFlow would wait for it without a timeout."""
    for address in resolver.cluster_spec().as_dict()["worker"]:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise DeviceError(
                f'train.devices = "{devices}", but its worker {address} does not respond ({first_line(error)}).',
                "Start TensorFlow's server on every host of the slice, or open its port to this machine.",
            ) from None


def _reason(error: Exception) -> str:
    """Return the line of a TensorFlow error that states the problem; headings come before it, a list of nodes after it."""
    headings = ("Graph execution error", "Detected at node", "<stack traces", "[[{{node")
    lines = [line.strip() for line in str(error).splitlines() if not line.strip().startswith(headings)]
    return first_line("\n".join(lines).strip() or type(error).__name__)
