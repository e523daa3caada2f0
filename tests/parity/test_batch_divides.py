"""A global batch size that the replicas do not divide is refused, with the nearest sizes, as soon as their number is known."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from components.common.errors import DeviceError
from components.train.config import TrainConfig, check_batch_divides
from components.train.devices import strategy


def nearest(batch: int, replicas: int) -> list[int]:
    """Search for the largest divisible batch below and the smallest above; a batch has at least one image."""
    below = [each for each in range(1, batch) if each % replicas == 0]
    return [*below[-1:], next(each for each in range(batch, batch + replicas + 1) if each % replicas == 0)]


def test_indivisible_batches_are_refused_with_the_nearest_divisible_ones() -> None:
    refused = 0
    for replicas in range(1, 17):
        for batch in range(1, 70):
            if batch % replicas == 0:
                check_batch_divides(batch, replicas)
                continue
            with pytest.raises(
                ValueError, match=f"global_batch_size = {batch} does not divide by {replicas} replicas; use"
            ) as caught:
                check_batch_divides(batch, replicas)
            named = [int(number) for number in re.findall(r"\d+", str(caught.value).split("use")[1])]
            assert named == nearest(batch, replicas)
            refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    ("devices", "batch", "cure"), [("cpu:8", 60, "use 56 or 64"), ("cpu:3", 64, "use 63 or 66"), ("cpu:4", 3, "use 4")]
)
def test_a_config_that_fixes_the_replicas_is_refused_when_it_is_read(devices: str, batch: int, cure: str) -> None:
    with pytest.raises(ValidationError, match=f"global_batch_size = {batch} does not divide by .* replicas; {cure}"):
        TrainConfig(devices=devices, global_batch_size=batch)


def test_a_device_that_determines_the_replicas_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """With "gpu" and "tpu:NAME" the config does not fix the number. Three virtual CPUs stand for three GPUs."""
    monkeypatch.setattr(strategy, "_gpu", lambda _: strategy._cpu("3"))
    config = TrainConfig(devices="gpu", global_batch_size=64)
    with pytest.raises(DeviceError) as caught:
        strategy.make_strategy(config)
    assert str(caught.value) == "train.global_batch_size = 64 does not divide by 3 replicas; use 63 or 66."
    dividing = strategy.make_strategy(config.model_copy(update={"global_batch_size": 66}))
    assert dividing.num_replicas_in_sync == 3
