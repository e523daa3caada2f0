"""A registry in each kind of store."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.gate import rescoring
from components.push import publish
from tests.support.push_bench import Bench, rescored
from tests.support.push_fixtures import shared
from tests.support.stores import location, servers

__all__ = ["location", "servers", "shared"]


@pytest.fixture
def bench(tmp_path: Path, shared: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A registry without load test and rescoring, which have tests of their own."""
    monkeypatch.setattr(publish, "check_loads", lambda *_: None)
    monkeypatch.setattr(rescoring, "rescored", rescored)
    return Bench(tmp_path, shared, location)


@pytest.fixture
def three(bench: Bench) -> Bench:
    """Three published versions, the last one in service."""
    for kid in (0.06, 0.04, 0.02):
        assert bench.push(bench.candidate(kid=kid)).decision == "published"
    return bench
