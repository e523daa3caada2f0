"""Errors for a GPU that cannot be used, with loadable libraries that answer as NVIDIA's driver does, and package metadata."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.common.errors import DeviceError
from components.train.devices.gpu_runtime import Driver, check_driver, check_packages

ROOT = Path(__file__).parents[4]
# The functions of the driver's library that are called here; the real ones: docs.nvidia.com/cuda/cuda-driver-api.
DRIVER = """
int cuInit(unsigned flags) { return %d; }
int cuDriverGetVersion(int *version) { *version = %d; return 0; }
int cuDeviceGetCount(int *count) { *count = %d; return 0; }
int cuGetErrorName(int code, const char **name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH";
    return 0;
}
"""
Build = Callable[..., str]


@pytest.fixture
def driver(tmp_path: Path, in_ci: bool) -> Build:
    """Return a function that compiles a libcuda.so.1 with these answers, and returns its path."""
    if shutil.which("cc") is None:
        assert not in_ci, "CI needs a C compiler"
        pytest.skip("no C compiler")

    def build(code: int = 0, version: int = 12040, gpus: int = 1) -> str:
        folder = tmp_path / f"driver-{code}-{version}-{gpus}"  # a process loads a path only once
        folder.mkdir()
        source, library = folder / "driver.c", folder / "libcuda.so.1"
        source.write_text(DRIVER % (code, version, gpus))
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        return str(library)

    return build


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """The device files of a machine with a GPU."""
    folder = tmp_path / "dev"
    folder.mkdir()
    (folder / "nvidia0").touch()
    return folder


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(DeviceError) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert caught.value.cure
    return str(caught.value)


def test_no_driver(tmp_path: Path) -> None:
    assert error_of(lambda: check_driver(tmp_path, f"{tmp_path}/libcuda.so.1")) == (
        f"There is no NVIDIA driver on this machine (no {tmp_path}/libcuda.so.1, no {tmp_path}/nvidia0). "
        "Use a machine with an NVIDIA GPU and driver 525 or later, or use --set train.devices=cpu:1."
    )


def test_a_container_with_the_device_but_without_the_library(dev: Path, tmp_path: Path) -> None:
    message = error_of(lambda: check_driver(dev, f"{tmp_path}/libcuda.so.1"))
    assert message.startswith("This machine has an NVIDIA GPU, but its driver library cannot be loaded: ")
    assert "libcuda.so.1: cannot open shared object file" in message
    assert "NVIDIA Container Toolkit (--gpus all)" in message


@pytest.mark.parametrize(("version", "supported"), [(12000, (12, 0)), (12040, (12, 4)), (12090, (12, 9)), (13000, (13, 0))])
def test_a_driver_that_is_new_enough(version: int, supported: tuple[int, int], dev: Path, driver: Build) -> None:
    assert check_driver(dev, driver(version=version, gpus=2)) == Driver(supported, 2)


def test_a_driver_that_is_too_old(dev: Path, driver: Build) -> None:
    assert error_of(lambda: check_driver(dev, driver(version=11080))) == (
        "NVIDIA's driver supports CUDA 11.8; TensorFlow 2.20.0 needs 12.0. "
        "Install driver 525 or later, or use --set train.devices=cpu:1."
    )


def test_a_driver_that_does_not_start(dev: Path, driver: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert error_of(lambda: check_driver(dev, driver(code=803))) == (
        "NVIDIA's driver does not start: cuInit returns 803 (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH). "
        "Run nvidia-smi; after an update of the driver, restart the machine, or use --set train.devices=cpu:1."
    )
    library = driver(code=100)
    (dev / "nvidia0").unlink()
    assert f"(CUDA_ERROR_NO_DEVICE). There is no {dev}/nvidia0: give the GPU to" in error_of(lambda: check_driver(dev, library))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES is '-1': unset it" in error_of(lambda: check_driver(dev, library))


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.distribution("tensorflow").read_text("METADATA")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    def install(name: str, metadata: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(metadata)

    assert "needs plain tensorflow 2.20.0, which is not installed. Install requirements/gpu.lock" in error_of(check_packages)
    install("tensorflow", real or "")
    lock = (ROOT / "requirements" / "gpu.lock").read_text()
    names = [line.partition("==")[0] for line in lock.splitlines() if line.startswith("nvidia-")]
    assert len(names) == 12
    assert "tensorflow 2.20.0; 12 of 12 are missing: nvidia-cublas-cu12 …" in error_of(check_packages)
    for name in names:
        if name != "nvidia-cudnn-cu12":
            install(name, f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    assert "1 of 12 are missing: nvidia-cudnn-cu12 …" in error_of(check_packages)
    install("nvidia-cudnn-cu12", "Metadata-Version: 2.1\nName: nvidia-cudnn-cu12\nVersion: 1\n")
    check_packages()


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ({"version": 11080}, "no      GPU                NVIDIA's driver supports CUDA 11.8; TensorFlow 2.20.0 needs 12.0"),
        # TensorFlow is imported, and cannot use this driver.
        pytest.param({}, "→ Install requirements/gpu.lock, or wgan-tpu-pipeline[gpu]", marks=pytest.mark.heavy),
    ],
)
def test_doctor_with_a_driver(answers: dict[str, int], line: str, driver: Build) -> None:
    if importlib.util.find_spec("nvidia") is not None:
        pytest.skip("the CUDA packages are installed here")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(driver(**answers)).parent)}
    command = [sys.executable, "-m", "pipeline", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert line in done.stdout


def test_a_run_is_refused_before_its_first_step(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    command = [sys.executable, "-m", "pipeline", "run", "--set", "train.devices=gpu", "--set", f"run.dir={tmp_path / 'runs'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "There is no NVIDIA driver on this machine" in done.stderr
    assert not (tmp_path / "runs").exists()
