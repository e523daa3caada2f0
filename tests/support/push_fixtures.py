"""A registry for each test of gate, push and registry, and candidates for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.gate import rescoring
from components.push import publish
from tests.support.datasets.tiny_artifacts import part, write_dataset, write_model, write_validation
from tests.support.push_bench import Bench, rescored, write_shared


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset, validation, and a model that cannot be loaded."""
    return write_shared(tmp_path_factory.mktemp("push"))


@pytest.fixture
def bench(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A registry without load test and rescoring, which have tests of their own."""
    monkeypatch.setattr(publish, "check_loads", lambda *_: None)
    monkeypatch.setattr(rescoring, "rescored", rescored)
    return Bench(tmp_path, shared)


@pytest.fixture(scope="session")
def loadable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset, validation, and a model that can be loaded."""
    root = tmp_path_factory.mktemp("loadable")
    write_validation(root / "validation", write_dataset(root / "dataset"))
    write_model(root / "model", part("rest").images)
    return root


@pytest.fixture
def real_bench(tmp_path: Path, loadable: Path) -> Bench:
    """A registry with everything real."""
    return Bench(tmp_path, loadable)
