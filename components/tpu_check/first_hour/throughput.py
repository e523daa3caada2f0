"""Times a training on synthetic images.

`python -m components.tpu_check.first_hour.throughput FOLDER` reads request.json there, and writes result.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from components.common.errors import PipelineError
from components.tpu_check.config import TpuCheckConfig
from components.train.devices import tpu_runtime


def measure(config: TpuCheckConfig, seconds: float) -> dict[str, Any]:
    """Train host calls until `seconds` have passed since the first one, which compiles; return the speed of the others."""
    import numpy as np
    import tensorflow as tf

    from components.train import loop, step
    from components.train.data.resident import Resident
    from components.train.devices import host_call
    from components.train.devices.strategy import make_strategy
    from components.train.networks import ImageShape

    train, size = config.train, config.image_size
    strategy = make_strategy(train)
    tf.config.optimizer.set_experimental_options({"remapping": False})
    images = np.random.default_rng(0).integers(0, 256, (config.images, size, size, config.channels), np.uint8)
    source = Resident(
        images, np.zeros(len(images), np.int32), seed=0, n_critic=train.n_critic, batch_size=train.global_batch_size
    )
    state = step.make_state(ImageShape(size, config.channels), train, strategy)
    call = host_call.make_call(state, train, strategy, source)
    first = loop.run_call(call, train, source, 0)
    started, done = time.monotonic(), first.round
    while time.monotonic() - started < seconds:
        done = loop.run_call(call, train, source, done).round
    elapsed = time.monotonic() - started
    return {
        "replicas": strategy.num_replicas_in_sync,
        "first_call_seconds": first.seconds,
        "rounds": done - first.round,
        "seconds": elapsed,
        "rounds_per_second": (done - first.round) / elapsed,
        "images_per_second": (done - first.round) * train.n_critic * train.global_batch_size / elapsed,
    }


def main(folder: Path) -> int:
    """Measure what request.json asks for. Return the exit code."""
    request = json.loads((folder / "request.json").read_text())
    config = TpuCheckConfig.model_validate_json(json.dumps(request["config"]))
    try:
        tpu_runtime.prepare(config.train.devices)
        (folder / "result.json").write_text(json.dumps(measure(config, request["seconds"])))
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
