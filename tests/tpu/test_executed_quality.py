"""After hundreds of rounds of the quickstart, the executed program's generator scores as that of the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from components.tpu_check import reference
from components.tpu_check.reference import Images
from components.train.monitor import SAMPLES, Monitor
from components.train.networks import ImageShape
from components.train.saving.export import Generator
from pipeline.config import load_config
from tests.tpu.executed import RATES, executed

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200), pytest.mark.usefixtures("jax_expected")]
ROUNDS = 300
SEEDS = (0, 1, 2)


def test_the_executed_program_scores_as_the_cpu_does(tmp_path: Path) -> None:
    """In bfloat16, as on a TPU, on eight replicas; the CPU trains in float32, as the quickstart does there."""
    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    images, monitor = Images(pixels[:1400], digits.target[:1400].astype(np.int32)), Monitor(pixels[1400:])
    rates = [f"train.{name}={ROUNDS}" for name in RATES]

    def config(seed: int, precision: str) -> Any:
        settings = ["train.devices=tpu", f"train.precision={precision}", f"train.seed={seed}", "train.ema_halflife_rounds=50"]
        loaded = load_config(Path("configs/quickstart.toml"), [*settings, *rates])
        return loaded.for_tpu_check("v5e:2x4").model_copy(update={"images": len(images.pixels)})

    def kid(variables: dict[str, Any], seed: int) -> float:
        train = reference.cpu_config(config(seed, "float32"))
        generator = Generator(ImageShape(8, 1), train)
        generator.set_weights([array for name, array in sorted(variables.items()) if name.startswith("ema_generator/")])
        return monitor.score(generator.draw(seed, SAMPLES), ROUNDS, 0).kid

    trained = {seed: reference.train_on_cpu(config(seed, "float32"), images, 1, ROUNDS) for seed in SEEDS}
    on_cpu = [kid(each.states[1], seed) for seed, each in trained.items()]
    found = executed(config(0, "bfloat16"), tmp_path, trained[0], images)
    untrained, on_replicas = kid(trained[0].states[0], 0), kid(found.found, 0)
    print(f"KID after {ROUNDS} rounds: {on_replicas:.4f} executed, {on_cpu} on the CPU, {untrained:.4f} untrained")
    assert found.differing == ()
    assert max(on_cpu) < 0.3 * untrained, "the training must have learned something"
    assert abs(on_replicas - on_cpu[0]) < 5.0 * np.std(on_cpu, ddof=1) + 0.02 * untrained
