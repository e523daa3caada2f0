"""What is said of a TPU that cannot be used, with real locks, real open files and installed packages as Python sees them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
import time
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
    """A machine with a TPU of two chips that nobody uses."""
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in ("accel0", "accel1", "accelerometer", "null"):
        (dev / name).touch()
    return Machine(dev=dev, lock=tmp_path / "libtpu_lockfile")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes Python see these packages and no other TensorFlow; it returns where libtpu lies."""

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
    """Another process holds the lock of libtpu, as TensorFlow and JAX take it."""
    yield from other_process(f"fcntl.lockf(os.open({str(machine.lock)!r}, os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)")


@pytest.fixture
def opened(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """Another process has a chip open."""
    yield from other_process(f"os.open({str(machine.dev / 'accel1')!r}, os.O_RDWR)")


def other_process(does: str) -> Iterator[subprocess.Popen[str]]:
    code = f"import fcntl, os, sys\n{does}\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate()


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(DeviceError) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert caught.value.cure
    return str(caught.value)


def test_a_ready_machine_gets_the_environment_that_pjrt_needs(machine: Machine, install: Install) -> None:
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
def test_other_devices_are_left_alone(devices: str, machine: Machine, install: Install) -> None:
    install()
    environment: dict[str, str] = {}
    prepare(devices, environment, machine)
    assert environment == {}


def test_a_coordinator_leaves_the_tpu_of_its_own_machine_alone(tmp_path: Path, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    environment: dict[str, str] = {}
    nothing = Machine(dev=tmp_path)
    prepare("tpu:my-slice", environment, nothing)
    assert environment == {"TPU_LOAD_LIBRARY": "0"}
    confirm("tpu:my-slice", environment, nothing)


def test_no_tpu(tmp_path: Path, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    said = refusal(lambda: prepare("tpu", {}, Machine(dev=tmp_path)))
    assert said == (
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


def test_chips_that_this_user_may_not_open(machine: Machine, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "accel1")  # root, as which tests may run, may open all
    said = refusal(lambda: prepare("tpu", {}, machine))
    assert (
        f"User {os.getuid()} may not open {machine.dev}/accel1 (1 of 2 TPU chips are closed to it). Give the container" in said
    )


@pytest.mark.parametrize(
    ("packages", "problem", "cure"),
    [
        ({}, "A TPU needs tensorflow-tpu 2.20.0, here is no TensorFlow.", "requirements.lock"),
        ({"tensorflow": "2.20.0"}, "A TPU needs tensorflow-tpu 2.20.0, here is plain tensorflow 2.20.0.", "requirements.lock"),
        (
            {"tensorflow_cpu": "2.19.0", "tensorflow_tpu": "2.20.0", "libtpu": LIBTPU},
            "tensorflow-cpu 2.19.0 is installed beside tensorflow-tpu 2.20.0: both write the folder tensorflow/, so that it may"
            " hold files of either.",
            "in an environment of its own",
        ),
        (
            {"tensorflow": "2.20.0", "tensorflow_tpu": "2.20.0", "libtpu": LIBTPU},
            "tensorflow 2.20.0 is installed beside tensorflow-tpu 2.20.0",
            "in an environment of its own",
        ),
        (
            {"tensorflow_tpu": "2.19.1", "libtpu": LIBTPU},
            "tensorflow-tpu 2.19.1 is installed, this program needs 2.20.0.",
            "requirements.lock",
        ),
        ({"tensorflow_tpu": "2.20.0"}, "tensorflow-tpu 2.20.0 is installed without libtpu.", "libtpu==0.0.21"),
        (
            {"tensorflow_tpu": "2.20.0", "libtpu": "0.0.52"},
            "libtpu 0.0.52 and tensorflow-tpu 2.20.0 are of different eras; this TensorFlow goes with libtpu 0.0.21 to 0.0.24.",
            "libtpu==0.0.21",
        ),
        (
            {"tensorflow_tpu": "2.20.0", "libtpu": "0.0.9"},
            "libtpu 0.0.9 and tensorflow-tpu 2.20.0 are of diff",
            "libtpu==0.0.21",
        ),
        ({"tensorflow_tpu": "2.20.0", "libtpu": "0.0.24.1"}, "libtpu 0.0.24.1 and tensorflow-tpu", "libtpu==0.0.21"),
    ],
)
@pytest.mark.parametrize("devices", ["tpu", "tpu:my-slice"])
def test_packages_that_do_not_go_together(
    devices: str, packages: dict[str, str], problem: str, cure: str, machine: Machine, install: Install
) -> None:
    install(**packages)
    said = refusal(lambda: prepare(devices, {}, machine))
    assert said.startswith(problem)
    assert cure in said


@pytest.mark.parametrize("libtpu", ["0.0.21", "0.0.21.1", "0.0.24"])
def test_libtpu_of_the_same_era(libtpu: str, install: Install) -> None:
    assert check_packages_after(install, libtpu).name == "libtpu.so"


def check_packages_after(install: Install, libtpu: str) -> Path:
    install(tensorflow_tpu="2.20.0", libtpu=libtpu)
    return check_packages()


def test_libtpu_without_its_file(machine: Machine, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU).unlink()
    assert "is not there. Install libtpu==0.0.21 again." in refusal(lambda: prepare("tpu", {}, machine))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TPU_LIBRARY_PATH", "/lib/libtpu.so"),
        ("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", ""),
        ("PJRT_DEVICE", "CPU"),
        ("NEXT_PLUGGABLE_DEVICE_USE_C_API", "false"),
    ],
)
def test_variables_that_lead_elsewhere(name: str, value: str, machine: Machine, install: Install) -> None:
    libtpu = install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    wanted = wanted_environment(libtpu)[name]
    environment = {name: value}
    said = refusal(lambda: prepare("tpu", environment, machine))
    assert said == f"{name} is {value!r}, training on a TPU needs {wanted!r}. Unset {name}."
    assert environment == {name: value}


def test_one_machine_of_a_slice_of_several(machine: Machine, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    said = refusal(lambda: prepare("tpu", {"TPU_WORKER_HOSTNAMES": "10.0.0.2,10.0.0.3"}, machine))
    assert "is for a slice of one host, this machine is one of 2 (TPU_WORKER_HOSTNAMES). Take a slice of one host" in said
    prepare("tpu", {"TPU_WORKER_HOSTNAMES": "10.0.0.2"}, machine)


def test_tensorflow_imported_too_early(machine: Machine, install: Install) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    said = refusal(lambda: confirm("tpu", {"TPU_LOAD_LIBRARY": "0"}, machine))
    assert said.startswith(
        "TensorFlow was imported before this process was made ready for a TPU. Call components.train.devices.tpu_run"
    )


def test_busy_by_the_lock_of_libtpu(machine: Machine, install: Install, locked: subprocess.Popen[str]) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    environment: dict[str, str] = {}
    said = refusal(lambda: prepare("tpu", environment, machine))
    assert f"The TPU is in use by process {locked.pid} ({sys.executable} -c import fcntl" in said
    assert said.endswith("Wait for it, or end it: a TPU serves one process at a time.")
    assert environment == {}
    locked.communicate()
    prepare("tpu", environment, machine)
    with machine.lock.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it only looked: the lock is free for libtpu


def test_busy_by_an_open_chip(machine: Machine, install: Install, opened: subprocess.Popen[str]) -> None:
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    assert f"The TPU is in use by process {opened.pid} (" in refusal(lambda: prepare("tpu", {}, machine))
    opened.communicate()
    prepare("tpu", {}, machine)


def test_a_holder_out_of_sight_is_named_by_its_lock(
    machine: Machine, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in another container has no number here: the kernel gives 0."""
    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    monkeypatch.setattr(tpu_lock, "lock_holder", lambda _: 0)
    assert f"in use by a process that holds {machine.lock}. Wait" in refusal(lambda: prepare("tpu", {}, machine))


def test_a_lock_file_of_another_user(machine: Machine, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> int:
        raise PermissionError

    install(tensorflow_tpu="2.20.0", libtpu=LIBTPU)
    monkeypatch.setattr(os, "open", refuses)  # root may open it
    said = refusal(lambda: prepare("tpu", {}, machine))
    assert said == (
        f"{machine.lock} belongs to another user, so that libtpu cannot take the TPU."
        f" Remove {machine.lock} when nobody uses the TPU."
    )


@pytest.mark.parametrize("variable", ["TPU_CHIPS_PER_PROCESS_BOUNDS", "ALLOW_MULTIPLE_LIBTPU_LOAD"])
def test_processes_with_chips_of_their_own(
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
def test_a_command_answers_in_seconds(module: str, arguments: str, tmp_path: Path) -> None:
    if tpu_lock.tpu_devices():
        pytest.skip("this machine has a TPU")
    file = tmp_path / "tpu.toml"
    file.write_text(f'[run]\ndir = "{tmp_path}/runs"\n[train]\ndevices = "tpu"\n')
    started = time.monotonic()
    command = [sys.executable, "-m", module, *arguments.format(file=file, tmp=tmp_path).split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert 'train.devices = "tpu", but there is no TPU on this machine' in done.stderr
    assert len(done.stderr.splitlines()) == 1, "TensorFlow was not even imported: it says more"
    assert time.monotonic() - started < 10
    assert not (tmp_path / "runs").exists()


def test_libtpu_is_kept_away_where_nobody_trains(tmp_path: Path) -> None:
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
    assert value(tmp_path / "nothing") == "None", "plain TensorFlow and the TPU compiler are left alone"


def test_the_versions_are_those_of_the_image() -> None:
    lock = (ROOT / "deploy" / "images" / "train-tpu" / "requirements.lock").read_text()
    assert f"\ntensorflow-tpu=={tpu_runtime.TENSORFLOW} \\\n" in lock
    assert f"\nlibtpu=={LIBTPU} \\\n" in lock
