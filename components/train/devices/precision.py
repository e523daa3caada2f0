"""Resolves train.precision = "auto": bfloat16 if the device supports it and is faster with it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import tensorflow as tf

from components.common.progress import say
from components.common.store import Store
from components.train.config import TrainConfig

FLAGS = {"avx512_bf16", "amx_bf16"}
# The flag is not enough: of two machines with avx512_bf16, one was twice as fast in bfloat16, the other 0.6 times as fast
# (docs/scaling.md). So the gain is measured.
NEEDED_GAIN = 1.2


def resolve(config: TrainConfig, store: Store) -> TrainConfig:
    """Return `config` with "auto" replaced: by the precision that this training started with, or else by the device's."""
    if config.precision != "auto":
        return config
    precision = ""
    with contextlib.suppress(FileNotFoundError):
        precision = store.read("precision").decode().strip()
    if precision not in ("float32", "bfloat16"):
        precision = "bfloat16" if bfloat16_is_faster(config.devices) else "float32"
        store.write(
            "precision", [f"{precision}\n".encode()], sync=True
        )  # so that another machine resumes this training in the same precision
        say(f"Layers compute in {precision}")
    return config.model_copy(update={"precision": precision})


def bfloat16_is_faster(devices: str) -> bool:
    """Return whether to use bfloat16: on a TPU, and on a CPU whose convolutions are NEEDED_GAIN times faster with it."""
    kind = devices.partition(":")[0]
    return kind == "tpu" or (kind == "cpu" and cpu_has_bfloat16() and convolution_gain() >= NEEDED_GAIN)


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the flags of the processor include bfloat16 (Linux on x86; False elsewhere)."""
    if not cpuinfo.is_file():
        return False
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")]
    return bool(flags) and bool(FLAGS & set(flags[0].split()))


def convolution_gain(repeats: int = 7) -> float:
    """Return the time of a convolution in float32 divided by its time in bfloat16, each the fastest of `repeats`."""
    fastest = {}
    for dtype in (tf.float32, tf.bfloat16):
        images, kernel = tf.ones([32, 32, 32, 64], dtype), tf.ones([3, 3, 64, 64], dtype)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            tf.nn.conv2d(images, kernel, 1, "SAME").numpy()
            seconds.append(time.perf_counter() - started)
        fastest[dtype] = min(seconds)
    return fastest[tf.float32] / fastest[tf.bfloat16]
