"""The StableHLO that a TPU would compile, executed on virtual replicas of the CPU: it trains as TensorFlow does there."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.tpu_check.parity import Bounds
from tests.tpu.executed import SGD, config_for, executed, smooth, two_chips

__all__ = ["smooth", "two_chips"]  # fixtures
pytestmark = [pytest.mark.usefixtures("jax_expected", "smooth", "two_chips")]
SUMS = Bounds(2e-6, 1e-4, by_variable=True)  # float32 sums in another order


def test_the_program_trains_as_the_cpu_does(tmp_path: Path) -> None:
    found = executed(config_for(8, rounds=6, **SGD), tmp_path).compare(SUMS)
    assert 0 < found.metric < SUMS.metrics
