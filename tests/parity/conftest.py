"""Results on one replica, with which all others are compared."""

from __future__ import annotations

import pytest

from tests.parity.training import Arrays, first_step, trained


@pytest.fixture(scope="session")
def one_first_step() -> Arrays:
    return first_step(1)


@pytest.fixture(scope="session")
def one_trained() -> tuple[Arrays, Arrays]:
    return trained(1)
