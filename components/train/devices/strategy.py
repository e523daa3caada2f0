"""Devices: the only file that differs between a laptop, a GPU and a TPU."""

from __future__ import annotations

import socket

import tensorflow as tf

from components.common.errors import DeviceError
from components.train.config import TrainConfig, check_batch_divides
from components.train.devices import tpu_runtime

ANSWER_SECONDS = 10


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """Return the strategy for `config.devices`, its devices made ready. Raises DeviceError in one sentence.

    `cpu:N` makes N virtual devices, which must happen before TensorFlow first uses the CPU.
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
    except RuntimeError:  # already initialised: fine if there are enough
        if len(tf.config.list_logical_devices("CPU")) < replicas:
            raise DeviceError(
                f"TensorFlow already runs with {len(tf.config.list_logical_devices('CPU'))} virtual CPU devices, "
                f"{replicas} are asked for.",
                "Start a new process.",
            ) from None
    # Summing on one device: collectives on virtual CPUs gain nothing, and keep the group size of the first strategy made in a
    # process ("joining a group with size 4, but that group has size 2").
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(replicas)], cross_device_ops=reduction)


def _gpu(_: str) -> tf.distribute.Strategy:
    gpus = tf.config.list_logical_devices("GPU")
    if not gpus:
        raise DeviceError(
            'train.devices = "gpu", but TensorFlow sees no GPU on this machine.',
            "Use --set train.devices=cpu:1, or a machine with a GPU and its driver.",
        )
    return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])


def _tpu(name: str) -> tf.distribute.Strategy:
    asked = f"tpu:{name}" if name else "tpu"
    tpu_runtime.confirm(asked)
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
        if name:
            _check_answers(asked, resolver)
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        raise DeviceError(
            f'train.devices = "{asked}", but no TPU answers ({_reason(error)}).',
            "Look at the TPU with the commands of docs/tpu.md, or use --set train.devices=cpu:1.",
        ) from None


def _check_answers(asked: str, resolver: tf.distribute.cluster_resolver.TPUClusterResolver) -> None:
    """Refuse a worker that nobody listens on: TensorFlow would wait for it for ever. Raises DeviceError."""
    for address in resolver.cluster_spec().as_dict()["worker"]:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise DeviceError(
                f'train.devices = "{asked}", but its worker {address} does not answer ({error.strerror or error}).',
                "Start TensorFlow's server on every host of the slice, or open its port to this machine.",
            ) from None


def _reason(error: Exception) -> str:
    """Return the line of a TensorFlow error that says what is wrong: it stands below headings and above a list of nodes."""
    headings = ("Graph execution error", "Detected at node", "<stack traces", "[[{{node")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().startswith(headings)]
    return (lines[0] if lines else type(error).__name__)[:200]
