"""Share of a round that goes to input, resident and streamed, and share of a host call that is Python; prints a JSON line.

The same rounds are trained with the real source and with one constant batch that is already on the device. The share is the
ratio of the times minus 1. Pairs are interleaved, so that a change of the machine's speed affects both. On a busy machine a
single pair can be wrong by 10 %, so there are many short pairs, and the quartiles show how certain the median is.
`reading_processor_share` measures the same with less noise: CPU seconds of reading a round's images, alone, divided by those
of a round on the constant batch. The Python share is the time of a host call outside the device function. Networks and batch
are those of configs/fashion_mnist.toml; the images are random.

    python benchmarks/input_overhead.py [--pairs 21] [--rounds 10] [--images 20000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as components/__init__.py does for a training

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.artifacts import new_artifact
from components.dataset.records import Record, encode_example, shard_name, write_tfrecord
from components.ingest.config import IngestConfig
from components.train import loop, progress, step
from components.train.config import TrainConfig
from components.train.data.batches import RoundBatches
from components.train.data.source import Source, open_source
from components.train.devices import host_call
from components.train.devices.strategy import make_strategy
from components.train.networks import ImageShape

ROOT = Path(__file__).parents[1]
SHARDS = 4


class ConstantBatch:
    """A source with one batch, already on the device, for every critic step: it measures training without input."""

    def __init__(self, real: Source) -> None:
        self.shape, self.count, self.bytes_per_round, self.label_counts = real.shape, real.count, 4, real.label_counts
        self.one = real.batch(real.take(0, 1), tf.constant(0))

    def first(self, count: int) -> npt.NDArray[np.uint8]:
        """Return images of the batch."""
        return np.asarray(self.one.images[0, :count])

    def take(self, first_round: int, rounds: int) -> tuple[tf.Tensor, ...]:  # noqa: ARG002
        """Return only the number of rounds, as the length of a tensor."""
        return (tf.zeros([rounds], tf.int32),)

    def batch(self, taken: tuple[tf.Tensor, ...], offset: tf.Tensor) -> RoundBatches:  # noqa: ARG002
        """Return the batch."""
        return self.one

    def close(self) -> None:
        """Do nothing."""


class CallSeconds(NamedTuple):
    """Seconds of a host call: in total, inside the device function, and CPU seconds."""

    call: float
    device: float
    processors: float


def write_dataset(folder: Path, images: int, size: int) -> Path:
    """Write random grey images as a dataset artifact."""
    random = np.random.default_rng(0)
    with new_artifact(folder, "dataset", config=IngestConfig()) as artifact:
        for shard, numbers in enumerate(np.array_split(np.arange(images), SHARDS)):
            pixels = random.integers(0, 256, (len(numbers), size, size, 1), np.uint8)
            examples = (encode_example(Record(pixels[i], int(n) % 10, f"random/{n}")) for i, n in enumerate(numbers))
            write_tfrecord(artifact.path / shard_name("train", shard, SHARDS), examples)
        artifact.counts["train"] = images
        artifact.details |= {"image_size": size, "channels": 1, "label_names": [str(label) for label in range(10)]}
    return folder


def training(config: TrainConfig, strategy: tf.distribute.Strategy, source: Source) -> Callable[[], CallSeconds]:
    """Return a function that trains one host call on `source` and returns its times; all sources start from equal states."""
    state = step.make_state(ImageShape(source.shape[0], source.shape[2]), config, strategy)
    call = host_call.make_call(state, config, strategy, source)
    device_seconds = 0.0
    done = 0

    def timed(taken: tuple[tf.Tensor, ...], first_round: tf.Tensor) -> tf.Tensor:
        nonlocal device_seconds
        started = time.perf_counter()
        metrics = call(taken, first_round)
        metrics.numpy()  # the call may return before the device is done
        device_seconds = time.perf_counter() - started
        return metrics

    def run() -> CallSeconds:
        nonlocal done
        started, processors = time.perf_counter(), time.process_time()
        done = loop.run_call(timed, config, source, done).round
        return CallSeconds(time.perf_counter() - started, device_seconds, time.process_time() - processors)

    return run


def reading_alone(source: Source, rounds: int, calls: int = 20) -> CallSeconds:
    """Read the images of `calls` host calls without computing anything; return the mean seconds of one."""
    source.take(0, rounds)
    started, processors = time.perf_counter(), time.process_time()
    for call in range(1, calls + 1):
        source.take(call * rounds, rounds)
    return CallSeconds((time.perf_counter() - started) / calls, 0.0, (time.process_time() - processors) / calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=10, help="rounds a host call")
    parser.add_argument("--images", type=int, default=20_000)
    arguments = parser.parse_args()
    file = tomllib.loads((ROOT / "configs" / "fashion_mnist.toml").read_text())
    every = dict.fromkeys(("log_every_rounds", "checkpoint_every_rounds", "sample_every_rounds"), arguments.rounds)
    config = TrainConfig(**file["train"] | every | {"rounds_per_call": 0, "rounds": arguments.rounds * (arguments.pairs + 1)})
    tf.config.optimizer.set_experimental_options({"remapping": False})
    strategy = make_strategy(config)
    batches = {"seed": config.seed, "n_critic": config.n_critic, "batch_size": config.global_batch_size}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder) / "dataset", arguments.images, int(file["ingest"]["image_size"]))
        sources: dict[str, Source] = {
            "resident": open_source(dataset, mode="resident", **batches),
            "streamed": open_source(dataset, mode="stream", **batches),
        }
        sources["constant"] = ConstantBatch(sources["resident"])
        runs = {name: training(config, strategy, source) for name, source in sources.items()}
        for run in runs.values():
            run()  # trace and warm up
        spent: dict[str, list[CallSeconds]] = {name: [] for name in runs}
        for pair in range(arguments.pairs):
            for name in sorted(runs, reverse=bool(pair % 2)):
                spent[name].append(runs[name]())
        reading = reading_alone(sources["streamed"], arguments.rounds)
        sources["streamed"].close()
    images = progress.images_seen(config, arguments.rounds)
    constant = statistics.median(each.processors for each in spent["constant"])
    row: dict[str, object] = {
        "benchmark": "input_overhead",
        "batch": config.global_batch_size,
        "n_critic": config.n_critic,
        "rounds_a_call": arguments.rounds,
        "pairs": arguments.pairs,
        "constant_rounds_per_second": round(arguments.rounds / statistics.median(each.call for each in spent["constant"]), 2),
        "reading_images_per_second": round(images / reading.call),
        "reading_processor_share": round(reading.processors / constant, 5),
    }
    print(json.dumps(row | shares("resident", spent) | shares("streamed", spent)))


def shares(name: str, spent: dict[str, list[CallSeconds]]) -> dict[str, object]:
    """Return a source's share of input, with quartiles, and of Python, as medians over the pairs."""
    pairs = list(zip(spent[name], spent["constant"], strict=True))
    low, middle, high = statistics.quantiles([real.call / constant.call - 1 for real, constant in pairs], n=4)
    return {
        f"{name}_input_share": round(middle, 4),
        f"{name}_quartiles": [round(low, 4), round(high, 4)],
        f"{name}_processor_share": round(statistics.median(r.processors / c.processors - 1 for r, c in pairs), 4),
        f"{name}_python_share": round(statistics.median(1 - each.device / each.call for each in spent[name]), 5),
    }


if __name__ == "__main__":
    main()
