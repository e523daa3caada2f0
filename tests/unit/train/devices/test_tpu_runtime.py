"""Errors for a TPU that cannot be used, with real locks, open files and package metadata."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.common.errors import DeviceError
from components.train.devices import tpu_lock, tpu_runtime
from components.train.devices.tpu_lock import Machine
from components.train.devices.tpu_runtime import LIBTPU, check_packages, confirm, prepare, wanted_environment

Install = Callable[..., Path]
ROOT = Path(__file__).parents[4]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with an unused TPU of two chips."""
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in ("accel0", "accel1", "accelerometer", "null"):
        (dev / name).touch()
    return Machine(dev=dev, lock=tmp_path / "libtpu_lockfile")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs metadata of these packages only, and returns the path of libtpu."""

    def packages(**versions: str) -> Path:
        site = tmp_path / "site-packages"
        for name, version in versions.items():
            folder = site / f"{name}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
        (site / "libtpu").mkdir(parents=True)
        (site / "libtpu" / "libtpu.so").touch()
        monkeypatch.setattr(sys, "path", [str(site)])
        return site / "libtpu" / "libtpu.so"

    return packages


@pytest.fixture
def locked(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """Another process holds libtpu's lock, like TensorFlow and JAX do."""
    yield from other_process(f"fcntl.lockf(os.open({str(machine.lock)!r}, os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)")


@pytest.fixture
def opened(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """Another process has a chip open."""
    yield from other_process(f"os.open({str(machine.dev / 'accel1')!r}, os.O_RDWR)")


def other_process(statement: str) -> Iterator[subprocess.Popen[str]]:
    code = f"import fcntl, os, sys\n{statement}\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate()


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(DeviceError) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert caught.value.cure
    return str(caught.value)


def test_prepare_sets_the_environment_for_pjrt(machine: Machine, install: Install) -> None:
    libtpu = install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    environment = {"TPU_LOAD_LIBRARY": "0"}  # as components/__init__.py sets it
    prepare("tpu", environment, machine)
    assert environment == {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": str(libtpu),
        "TPU_LIBRARY_PATH": str(libtpu),
    }
    confirm("tpu", environment, machine)


@pytest.mark.parametrize("devices", ["cpu:1", "cpu:4", "gpu"])
def test_other_devices_need_no_preparation(devices: str, machine: Machine, install: Install) -> None:
    install()
    environment: dict[str, str] = {}
    prepare(devices, environment, machine)
    assert environment == {}


def test_a_coordinator_does_not_load_the_tpu_of_its_own_machine(tmp_path: Path, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    environment: dict[str, str] = {}
    nothing = Machine(dev=tmp_path)
    prepare("tpu:my-slice", environment, nothing)
    assert environment == {"TPU_LOAD_LIBRARY": "0"}
    confirm("tpu:my-slice", environment, nothing)


def test_no_tpu(tmp_path: Path, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    message = error_of(lambda: prepare("tpu", {}, Machine(dev=tmp_path)))
    assert message == (
        f'train.devices = "tpu", but there is no TPU on this machine (no {tmp_path}/accel0, no {tmp_path}/vfio/0). '
        "Run on a TPU VM, or use --set train.devices=cpu:1."
    )


@pytest.mark.parametrize(
    ("file", "is_chip"), [("vfio/0", True), ("vfio/12", True), ("vfio/vfio", False), ("accelerometer", False)]
)
def test_chips_of_later_generations_are_vfio_groups(file: str, is_chip: bool, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert tpu_lock.tpu_devices(Machine(dev=tmp_path)) == [tmp_path / file] * is_chip


def test_chips_without_permission(machine: Machine, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "accel1")  # tests may run as root
    message = error_of(lambda: prepare("tpu", {}, machine))
    assert f"User {os.getuid()} has no permission to open {machine.dev}/accel1 (1 of 2 TPU chips). Give the devices" in message


@pytest.mark.parametrize(
    ("packages", "problem", "cure"),
    [
        ({}, "A TPU needs tensorflow-tpu 2.20.0; no TensorFlow is installed.", "requirements.lock"),
        (
            {"tensorflow": "2.20.0"},
            "A TPU needs tensorflow-tpu 2.20.0; plain tensorflow 2.20.0 is installed.",
            "requirements.lock",
        ),
        (
            {"tensorflow_cpu": "2.19.0", "tensorflow_tpu": "2.20.0", "libtpu": LIBTPU},
            "tensorflow-cpu 2.19.0 is installed beside tensorflow-tpu 2.20.0; their files are mixed in one folder tensorflow/.",
            "in a separate environment",
        ),
        (
            {"tensorflow": "2.20.0", "tensorflow_tpu": "2.20.0", "libtpu": LIBTPU},
            "tensorflow 2.20.0 is installed beside tensorflow-tpu 2.20.0",
            "in a separate environment",
        ),
        (
            {"tensorflow_tpu": "2.19.1", "libtpu": LIBTPU},
            "tensorflow-tpu 2.19.1 is installed; this program needs 2.20.0.",
            "requirements.lock",
        ),
        ({"tensorflow_tpu": "2.20.0"}, "tensorflow-tpu 2.20.0 is installed without libtpu.", "libtpu==0.0.21"),
        (
            {"tensorflow_tpu": "2.20.0", "libtpu": "0.0.52"},
            "libtpu 0.0.52 is incompatible with tensorflow-tpu 2.20.0, which needs libtpu 0.0.21 to 0.0.24.",
            "libtpu==0.0.21",
        ),
        (
            {"tensorflow_tpu": "2.20.0", "libtpu": "0.0.9"},
            "libtpu 0.0.9 is incompatible with tensorflow-tpu 2.20.0",
            "libtpu==0.0.21",
        ),
        (
            {"tensorflow_tpu": "2.20.0", "libtpu": "0.0.24.1"},
            "libtpu 0.0.24.1 is incompatible with tensorflow-tpu",
            "libtpu==0.0.21",
        ),
    ],
)
@pytest.mark.parametrize("devices", ["tpu", "tpu:my-slice"])
def test_incompatible_packages(
    devices: str, packages: dict[str, str], problem: str, cure: str, machine: Machine, install: Install
) -> None:
    install(**packages)
    message = error_of(lambda: prepare(devices, {}, machine))
    assert message.startswith(problem)
    assert cure in message


@pytest.mark.parametrize("libtpu", ["0.0.21", "0.0.21.1", "0.0.24"])
def test_compatible_versions_of_libtpu(libtpu: str, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=libtpu)
    assert check_packages().name == "libtpu.so"


def test_libtpu_without_its_file(machine: Machine, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU).unlink()
    assert "is missing. Install libtpu==0.0.21 again." in error_of(lambda: prepare("tpu", {}, machine))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TPU_LIBRARY_PATH", "/lib/libtpu.so"),
        ("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", ""),
        ("PJRT_DEVICE", "CPU"),
        ("NEXT_PLUGGABLE_DEVICE_USE_C_API", "false"),
    ],
)
def test_conflicting_environment_variables(name: str, value: str, machine: Machine, install: Install) -> None:
    libtpu = install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    wanted = wanted_environment(libtpu)[name]
    environment = {name: value}
    message = error_of(lambda: prepare("tpu", environment, machine))
    assert message == f"{name} is {value!r}; training on a TPU needs {wanted!r}. Unset {name}."
    assert environment == {name: value}


def test_a_slice_with_several_hosts(machine: Machine, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    message = error_of(lambda: prepare("tpu", {"TPU_WORKER_HOSTNAMES": "10.0.0.2,10.0.0.3"}, machine))
    assert "needs a slice with one host; this slice has 2 (TPU_WORKER_HOSTNAMES). Use a slice with one host" in message
    prepare("tpu", {"TPU_WORKER_HOSTNAMES": "10.0.0.2"}, machine)


def test_tensorflow_imported_too_early(machine: Machine, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    message = error_of(lambda: confirm("tpu", {"TPU_LOAD_LIBRARY": "0"}, machine))
    assert message.startswith(
        "TensorFlow was imported before this process was prepared for a TPU. Call components.train.devices.tpu_run"
    )


def test_a_tpu_in_use_by_the_holder_of_the_lock(machine: Machine, install: Install, locked: subprocess.Popen[str]) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    environment: dict[str, str] = {}
    message = error_of(lambda: prepare("tpu", environment, machine))
    assert f"The TPU is in use by process {locked.pid} ({sys.executable} -c import fcntl" in message
    assert message.endswith("Wait until it ends, or end it: a TPU serves one process at a time.")
    assert environment == {}
    locked.communicate()
    prepare("tpu", environment, machine)
    with machine.lock.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the check did not take the lock


def test_a_tpu_in_use_by_a_process_with_an_open_chip(machine: Machine, install: Install, opened: subprocess.Popen[str]) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    assert f"The TPU is in use by process {opened.pid} (" in error_of(lambda: prepare("tpu", {}, machine))
    opened.communicate()
    prepare("tpu", {}, machine)


def test_a_holder_in_another_container_is_named_by_its_lock(
    machine: Machine, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel returns 0 as the id of a process in another container."""
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    monkeypatch.setattr(tpu_lock, "lock_holder", lambda _: 0)
    assert f"in use by a process that holds {machine.lock}. Wait" in error_of(lambda: prepare("tpu", {}, machine))


def test_a_lock_file_of_another_user(machine: Machine, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> int:
        raise PermissionError

    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    monkeypatch.setattr(os, "open", refuses)  # root may open it
    message = error_of(lambda: prepare("tpu", {}, machine))
    assert message == (
        f"{machine.lock} belongs to another user, so libtpu cannot lock the TPU."
        f" Remove {machine.lock} when nobody uses the TPU."
    )


@pytest.mark.parametrize("variable", ["TPU_CHIPS_PER_PROCESS_BOUNDS", "ALLOW_MULTIPLE_LIBTPU_LOAD"])
def test_processes_that_share_the_chips(
    variable: str, machine: Machine, install: Install, locked: subprocess.Popen[str]
) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    prepare("tpu", {variable: "1,1,1"}, machine)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("components.train", "--config {file} --dataset {tmp} --validation {tmp} --work-dir {tmp} --out {tmp}/out"),
        ("pipeline", "run {file}"),
    ],
)
def test_commands_fail_before_tensorflow_is_imported(module: str, arguments: str, tmp_path: Path) -> None:
    if tpu_lock.tpu_devices():
        pytest.skip("this machine has a TPU")
    file = tmp_path / "tpu.toml"
    file.write_text(f'[run]\ndir = "{tmp_path}/runs"\n[train]\ndevices = "tpu"\n')
    command = [sys.executable, "-m", module, *arguments.format(file=file, tmp=tmp_path).split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert 'train.devices = "tpu", but there is no TPU on this machine' in done.stderr
    assert len(done.stderr.splitlines()) == 1, "TensorFlow would print more lines if it were imported"
    assert not (tmp_path / "runs").exists()


def test_libtpu_is_not_loaded_by_processes_that_do_not_train(tmp_path: Path) -> None:
    folder = tmp_path / "tensorflow_tpu-2.20.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow-tpu\nVersion: 2.20.0\n")
    code = textwrap.dedent("""
        import os, sys
        sys.path.insert(0, sys.argv[1])
        import components
        print(os.environ.get("TPU_LOAD_LIBRARY"))
    """)

    def value(path: Path, **variables: str) -> str:
        environment = {name: text for name, text in os.environ.items() if name != "TPU_LOAD_LIBRARY"} | variables
        command = [sys.executable, "-c", code, str(path)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env=environment).stdout.strip()

    assert value(tmp_path) == "0"
    assert value(tmp_path, TPU_LOAD_LIBRARY="1") == "1"
    assert value(tmp_path / "nothing") == "None", "plain TensorFlow and the TPU compiler are not affected"


def test_versions_match_the_lock_of_the_image() -> None:
    lock = (ROOT / "deploy" / "images" / "train-tpu" / "requirements.lock").read_text()
    assert f"\ntensorflow-tpu=={tpu_runtime.TENSORFLOW} \\\n" in lock
    assert f"\nlibtpu=={LIBTPU} \\\n" in lock
