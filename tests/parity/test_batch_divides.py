"""A global batch size that does not divide by the replicas is refused, and the nearest valid sizes are named."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from components.common.errors import DeviceError
from components.train.config import TrainConfig, check_batch_divides
from components.train.devices import strategy


def nearest(batch: int, replicas: int) -> list[int]:
    """Return, by search, the nearest sizes below and above that divide; a batch has at least one image."""
    below = [each for each in range(1, batch) if each % replicas == 0]
    return [*below[-1:], next(each for each in range(batch, batch + replicas + 1) if each % replicas == 0)]


def test_batch_sizes_divide_or_are_refused() -> None:
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
def test_a_config_with_a_number_of_replicas_is_checked_when_read(devices: str, batch: int, cure: str) -> None:
    with pytest.raises(ValidationError, match=f"global_batch_size = {batch} does not divide by .* replicas; {cure}"):
        TrainConfig(devices=devices, global_batch_size=batch)


def test_devices_without_a_number_are_checked_with_the_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three virtual CPUs stand for three GPUs."""
    monkeypatch.setattr(strategy, "_gpu", lambda _: strategy._cpu("3"))
    config = TrainConfig(devices="gpu", global_batch_size=64)
    with pytest.raises(DeviceError) as caught:
        strategy.make_strategy(config)
    assert str(caught.value) == "train.global_batch_size = 64 does not divide by 3 replicas; use 63 or 66."
    dividing = strategy.make_strategy(config.model_copy(update={"global_batch_size": 66}))
    assert dividing.num_replicas_in_sync == 3
