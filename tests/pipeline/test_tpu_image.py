"""An environment made from the lock of the TPU image: it imports, and it reads the files that plain TensorFlow wrote.

The environment needs 1.5 GB and is made once, in ~/.cache/wgan-tpu-pipeline.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import tensorflow as tf

from components.train import run
from components.train.config import TrainConfig
from components.train.devices.tpu_lock import tpu_devices
from components.train.saving import checkpoint
from tests.support.datasets.training_data import write_digits

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "deploy" / "images" / "train-tpu" / "requirements.lock"
SETTINGS = {
    "rounds": 6, "log_every_rounds": 2, "checkpoint_every_rounds": 6, "sample_every_rounds": 6, "global_batch_size": 8,
    "n_critic": 2, "latents": 16, "generator_channels": 8, "critic_channels": 8, "precision": "float32",
}  # fmt: skip
PROGRAM = """
import components, ctypes, importlib.metadata, json, os, sys
with_tensorflow = {each.name.lower().replace("_", "-") for each in importlib.metadata.distributions()}
import tensorflow as tf
from components.train.devices.tpu_runtime import check_packages
library = ctypes.CDLL(str(check_packages()))
library.GetPjrtApi.restype = ctypes.c_void_p
version = (ctypes.c_int32 * 2).from_address(library.GetPjrtApi() + 32)  # PJRT_Api.pjrt_api_version.major_version
print(json.dumps({
    "tensorflow": tf.__version__,
    "packages": sorted(with_tensorflow),
    "sum": float(tf.reduce_sum(tf.range(5.0))),
    "devices": [device.device_type for device in tf.config.list_physical_devices()],
    "pjrt": list(version),
    "lacks": [name for name in sys.argv[1:] if not hasattr(library, name)],
}))
"""
PAGE = """
import pathlib, sys
from components.report.sections.training import training_page
print(training_page(pathlib.Path(sys.argv[1]), {}))
"""
# Functions that TensorFlow 2.20.0 needs from libtpu; libtpu 0.0.52 no longer has them.
FUNCTIONS = (
    "ConfigureDistributedTpuOp_DoWork",
    "TpuCompile_CompileAndBuild",
    "TpuExecutable_ExecuteAsyncOnStream",
    "TfTpu_Initialize",
)


@pytest.fixture(scope="module")
def python(in_ci: bool) -> Path:
    """Return the Python of an environment made from the lock of the TPU image."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    folder = Path.home() / ".cache" / "wgan-tpu-pipeline" / f"train-tpu-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = str(Path(sys.executable).parent / "uv")
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
            command = [uv, "pip", "sync", "--quiet", "--python", str(folder / "bin" / "python"), "--require-hashes", str(LOCK)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                reason = f"the lock of the TPU image cannot be installed here: {done.stderr.strip()[-300:]}"
                pytest.fail(reason) if in_ci else pytest.skip(reason)
            (folder / "ready").touch()
    return folder / "bin" / "python"


def on_tpu_build(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "PJRT_"))}
    environment |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [str(python), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)


def test_it_imports_without_a_tpu_and_libtpu_has_the_functions_that_tensorflow_calls(python: Path) -> None:
    started = time.monotonic()
    done = on_tpu_build(python, "-c", PROGRAM, *FUNCTIONS)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout)
    assert facts["tensorflow"] == "2.20.0"
    assert facts["sum"] == 10.0
    assert facts["pjrt"][0] == 0
    assert facts["pjrt"][1] >= 72, "TensorFlow 2.20.0 speaks PJRT 0.72"
    assert facts["lacks"] == []
    assert {"tensorflow-tpu", "libtpu", "kfp"} <= set(facts["packages"])
    assert {"tensorflow", "tensorflow-cpu", "apache-beam", "libclang", "jax"}.isdisjoint(facts["packages"])
    assert time.monotonic() - started < 120, "it must not query Google's metadata server"
    if not tpu_devices():
        assert facts["devices"] == ["CPU"]


def test_a_missing_tpu_is_reported_in_one_sentence(python: Path, tmp_path: Path) -> None:
    if tpu_devices():
        pytest.skip("this machine has a TPU")
    (tmp_path / "train.toml").write_text('devices = "tpu"\n')
    folders = [f"--{name}={tmp_path}" for name in ("dataset", "validation", "work-dir")]
    done = on_tpu_build(
        python, "-m", "components.train", f"--config={tmp_path / 'train.toml'}", *folders, f"--out={tmp_path / 'out'}"
    )
    assert done.returncode == 1
    assert done.stderr.startswith('train: train.devices = "tpu", but there is no TPU on this machine'), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_checkpoint_and_model_of_plain_tensorflow_produce_the_same_images(python: Path, tmp_path: Path) -> None:
    dataset, validation = write_digits(tmp_path)
    config = TrainConfig(**SETTINGS)
    run.run(config, dataset=dataset, validation=validation, work_dir=tmp_path / "work", out=tmp_path / "model")
    (training,) = (tmp_path / "work" / "checkpoints").iterdir()
    script = str(ROOT / "tests" / "support" / "on_the_tpu_build.py")
    arguments = [str(tmp_path / "model"), str(training), json.dumps(SETTINGS), str(tmp_path / "theirs.npz")]
    done = on_tpu_build(python, script, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    page = on_tpu_build(python, "-c", PAGE, str(tmp_path / "model"))
    assert "Wasserstein gap" in page.stdout, page.stderr[-2000:]  # what train shows needs only the packages of its image
    theirs = dict(np.load(tmp_path / "theirs.npz"))
    ours = images_here(tmp_path / "model")
    assert theirs["round"] == SETTINGS["rounds"]
    assert ours.std() > 5, "an empty image would prove nothing"
    for name in ("served", "checkpointed"):
        difference = np.abs(theirs[name].astype(int) - ours.astype(int))
        assert difference.max() <= 1, "only rounding to a byte may differ"
        assert difference.mean() < 0.01
    with np.load(training / checkpoint.name_of(config.rounds) / "state.npz") as saved:
        for name in saved.files:
            np.testing.assert_array_equal(theirs[f"state/{name}"], saved[name], err_msg=name)


def images_here(model: Path) -> Any:
    served = tf.saved_model.load(str(model / "saved_model")).signatures["generate"]
    return served(seed=tf.constant(7, tf.int64), count=tf.constant(50))["images"].numpy()
