"""The locks of the images and of requirements/: the tested versions, hashes, no URL, no forbidden packages."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "deploy" / "images"
NAMES = ["train-tpu", "data", "tpu-check"]
REQUIREMENTS = ROOT / "requirements"
LOCKS = [*(IMAGES / name / "requirements.lock" for name in NAMES), IMAGES / "data" / "dataflow.lock", IMAGES / "build.lock"]
OWN_VERSIONS = {
    "train-tpu": {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.21"},
    "data": {},
    "tpu-check": {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.52"},
}


def pins(lock: Path) -> dict[str, str]:
    """Return the version of each package for Python 3.11; a lock for several Pythons may hold two of a package."""
    lines = [line for line in lock.read_text().splitlines() if not re.search(r">= '3\.1[2-9]'", line)]
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==([^ ;]+)", "\n".join(lines), re.MULTILINE))


@pytest.mark.parametrize(
    "lock", [*LOCKS, *sorted(REQUIREMENTS.glob("*.lock"))], ids=lambda lock: f"{lock.parent.name}-{lock.stem}"
)
def test_every_package_has_hashes_and_no_url(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for block in re.split(r"\n(?=[a-z])", text):
        assert "--hash=sha256:" in block, block.splitlines()[0]


@pytest.mark.parametrize("name", NAMES)
def test_images_have_the_tested_versions(name: str) -> None:
    tested, image = pins(REQUIREMENTS / "run.lock"), pins(IMAGES / name / "requirements.lock")
    assert len(image) > 50
    own_versions = {name: version for name, version in image.items() if tested.get(name) != version}
    assert own_versions == OWN_VERSIONS[name]
    assert "tensorflow-tpu" not in tested


def test_each_image_has_only_the_packages_of_its_steps() -> None:
    train, data, check = (pins(lock) for lock in LOCKS[:3])
    assert {"tensorflow", "apache-beam", "tensorflow-datasets", "scikit-learn", "jax", "libclang"}.isdisjoint(train)
    assert {"tensorflow", "apache-beam", "tensorflow-datasets", "scikit-learn", "kfp"} <= data.keys()
    assert {"tensorflow-tpu", "libtpu", "libclang"}.isdisjoint(data)
    assert check == data | OWN_VERSIONS["tpu-check"]
    dataflow, tested = pins(IMAGES / "data" / "dataflow.lock"), pins(REQUIREMENTS / "dataflow.lock")
    assert data.items() <= dataflow.items() <= tested.items()
    assert "google-cloud-dataflow-client" in dataflow.keys() - data.keys()


def test_the_gpu_lock_is_the_tested_one_with_the_cuda_packages_of_tensorflow() -> None:
    tested, gpu = pins(REQUIREMENTS / "run.lock"), pins(REQUIREMENTS / "gpu.lock")
    assert tested.items() <= gpu.items()
    assert "tensorflow[and-cuda]==2.20.0" in (ROOT / "pyproject.toml").read_text()
    required = [Requirement(text) for text in importlib.metadata.requires("tensorflow") or []]
    cuda = {each.name: each.specifier for each in required if each.marker and each.marker.evaluate({"extra": "and-cuda"})}
    added = {name: version for name, version in gpu.items() if name not in tested}
    assert added.keys() == {name for name in cuda if name.startswith("nvidia-")}
    assert all(cuda[name].contains(version) for name, version in added.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_containerfile_is_nonroot_and_has_no_default_base(name: str) -> None:
    text = (IMAGES / name / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0] == "ARG BASE_IMAGE", "no default: a base is named by its digest"
    stages = [line for line in lines if line.startswith("FROM")]
    assert stages[0] == "FROM ${BASE_IMAGE} AS build"
    assert stages[1].startswith("FROM ${BASE_IMAGE}")
    assert "USER 10001:10001" in lines
    before = lines[: lines.index("FROM data AS dataflow")] if name == "data" else lines
    assert not any(line.startswith("ENTRYPOINT") for line in before), "KFP gives the whole command"
    assert f"deploy/images/{name}/" in text
    assert "org.opencontainers.image.revision" in text


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(IMAGES / "build"), *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 1, "which image: train-tpu, data, dataflow or tpu-check"),
        (("data",), 1, "which base image, by digest"),
        (("data", "python:3.11-slim"), 2, "build: python:3.11-slim has no digest, so its content may change."),
        (("nothing", "localhost/base:latest"), 2, "build: there is no deploy/images/nothing/Containerfile."),
    ],
)
def test_build_refuses_invalid_arguments(arguments: tuple[str, ...], code: int, sentence: str) -> None:
    done = build(*arguments)
    assert done.returncode == code
    assert sentence in done.stderr
