"""A Kubeflow on this machine, and a config that is compiled once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.common import requests
from pipeline.config import load_config
from pipeline.targets import remote
from pipeline.targets.kubeflow import compiler
from tests.support.servers.kubeflow_server import kubeflow_served
from tests.targets.platform_tests import Platform


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(requests, "FIRST_WAIT_SECONDS", 0.01)
    config, token = tmp_path / "c.toml", tmp_path / "token"
    config.write_text('[run]\ndir = "/mnt/wgan"\n[deploy]\nvolume_claim = "wgan"\n[train]\nrounds = 20\n')
    token.write_text("s3cr3t-token\n")
    (tmp_path / "server").mkdir()
    with kubeflow_served(tmp_path / "server") as (address, kubeflow):
        yield Platform(kubeflow, address, ["--host", address], config, "s3cr3t-token", ["--token-file", str(token)])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled file for the tests of requests."""
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.compile_pipeline(load_config(None, ["run.dir=/mnt/wgan", "deploy.volume_claim=wgan", "train.rounds=20"]), file)
    return file


@pytest.fixture
def compiled_before(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "compile_pipeline", lambda _, file: shutil.copy(compiled, file))
