"""`doctor`: the exit code, and what it finds of containers, disk and packages."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.commands import doctor
from tests.support.command_line import run


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ("unix://{folder}/engine.sock", "ok      containers         container engine at unix://{folder}/engine.sock"),
        ("unix://{folder}/none.sock", "no      containers         no container engine at unix://{folder}/none.sock"),
        ("tcp://builder:2375", "ok      containers         container engine at tcp://builder:2375"),
    ],
)
def test_the_engine_at_docker_host_is_found(host: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind("engine.sock")  # relative, since the path of a socket has at most 107 bytes
        monkeypatch.setenv("DOCKER_HOST", host.format(folder=tmp_path))
        code, output = run("doctor")
    assert code == 0, output
    assert line.format(folder=tmp_path) in output


def test_too_little_disk_is_a_failure_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    code, output = run("doctor")
    assert code == 1
    assert "missing disk               1 GiB free here\n        → Runs need 2 GiB.\n" in output
    assert "This machine cannot run the pipeline yet: see above." in output


def test_another_version_of_a_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PINNED", {**doctor.PINNED, "kfp": "0.1"})
    code, output = run("doctor")
    assert code == 1
    assert "missing packages           kfp 2.17.0\n        → make setup installs the locked versions.\n" in output
