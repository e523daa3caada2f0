"""What --runner docker decides before it needs an engine: mounts, network, devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.common.errors import ConfigError
from pipeline.config import load_config, resolve_paths
from pipeline.targets.local import docker
from tests.support.command_line import run_process


def test_folders_of_steps_are_mounted_under_the_same_path(tmp_path: Path) -> None:
    sets = [f"run.dir={tmp_path / 'runs'}", f"push.registry={tmp_path / 'r'}", f"ingest.source=images:{tmp_path}/in/*/a?.png"]
    found = docker.find_mounts(resolve_paths(load_config(None, sets)))
    modes = {Path(path).relative_to(tmp_path).as_posix(): each["mode"] for path, each in found.items()}
    assert all(path == each["bind"] for path, each in found.items())
    assert modes.pop("in") == "ro"
    assert modes.pop(next(name for name in modes if name.startswith("runs/snapshots/"))) == "rw"
    assert modes == {"runs": "rw", "runs/.work": "rw", "r": "rw"}


@pytest.mark.parametrize(
    ("sets", "needed"),
    [
        ([], False),
        (["ingest.source=images:/in"], False),
        (["ingest.source=images:gs://bucket/in"], True),
        (["ingest.source=tfds:mnist"], True),
        (["push.registry=gs://bucket/r"], True),
        (["evaluate.download_weights=true", "evaluate.extractor=inception"], True),
    ],
)
def test_containers_get_a_network_only_for_remote_data(sets: list[str], needed: bool) -> None:
    config = load_config(None, sets)
    assert docker.needs_network(config) == needed
    assert ("network_mode" in docker.container_settings(network=needed)) != needed


def test_devices_other_than_cpu_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--runner docker does not give gpu to containers\."):
        docker.check_devices("gpu")


def test_a_missing_engine_is_refused_in_one_line(tmp_path: Path) -> None:
    words = ["run", "--runner", "docker", f"--set=run.dir={tmp_path / 'runs'}"]
    done = run_process(*words, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 2
    assert re.search(r"No container engine answers at unix:///.*none\.sock: .* Start Docker, or start podman", done.stderr)
    assert not (tmp_path / "runs").exists()
