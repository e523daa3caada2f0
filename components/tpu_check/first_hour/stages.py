"""The stages of the first hour. Each returns facts for the report, and a sentence for each thing that is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from components.common.errors import DeviceError, PipelineError
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.first_hour.comparison import BFLOAT16, FLOAT32, Bounds, Trained, compared, read_trained, unequal
from components.tpu_check.first_hour.dataset import write_discs
from components.tpu_check.report import TpuCheckSummary
from components.train import speed
from components.train.config import TrainConfig
from components.train.devices import tpu_runtime
from components.train.saving.signals import long_call_text

TRAINING: dict[str, Any] = {
    "rounds": 300, "rounds_per_call": 10, "log_every_rounds": 10, "checkpoint_every_rounds": 300, "sample_every_rounds": 300,
    "score_every_images": 0, "global_batch_size": 64, "n_critic": 3, "latents": 16, "generator_channels": 8,
    "critic_channels": 8, "optimizer": "sgd", "critic_learning_rate": 2e-3, "generator_learning_rate": 2e-3,
}  # fmt: skip
STOP_AFTER_ROUNDS = 100
TRAINING_SECONDS = 900  # the limit of a training; on a TPU most of it is compilation
ON_THE_HOST = re.compile("outside.compilation", re.IGNORECASE)


class Hour(NamedTuple):
    """What is tried, and where the results go. `bound` is tpu-check's report for the training of `big`, if there is one."""

    devices: str
    folder: Path
    big: TpuCheckConfig
    bound: TpuCheckSummary | None


class Findings(NamedTuple):
    """The result of a stage: facts by name, and the problems; without problems it has passed."""

    facts: dict[str, str]
    problems: list[str]


class StageError(PipelineError):
    """A stage could not be carried out."""


def machine(hour: Hour) -> Findings:
    """Return the user, the device files and the packages; check what the train step checks before it imports TensorFlow."""
    facts = _probed(hour, "machine", 60)
    try:
        if hour.devices == "tpu":
            tpu_runtime.check_machine(os.environ)
    except DeviceError as error:
        return Findings(facts, [str(error)])
    return Findings(facts, [])


def replicas(hour: Hour) -> Findings:
    """Create the strategy and count its replicas."""
    facts = _probed(hour, "replicas", 300)
    is_tpu = facts["strategy"].startswith("TPUStrategy")
    wrong = [f"The strategy is {facts['strategy']}, not TPUStrategy."] if uses_tpu(hour.devices) and not is_tpu else []
    return Findings(facts, wrong)


def float32(hour: Hour) -> Findings:
    """Train in float32 on the devices and on one CPU, and compare."""
    return _as_on_a_cpu(hour, "float32", FLOAT32)


def bfloat16(hour: Hour) -> Findings:
    """Train in bfloat16 on the devices and on one CPU, and compare."""
    return _as_on_a_cpu(hour, "bfloat16", BFLOAT16)


def calls(hour: Hour) -> Findings:
    """Look at the time of the second host call of the bfloat16 training, and in its log for work on the host."""
    folder = hour.folder / "bfloat16"
    seconds = [line.seconds for line in _results(folder).lines[:2]]
    log = (folder / "log.txt").read_text(errors="replace").splitlines()
    on_host = [line for line in log if ON_THE_HOST.search(line)]
    problems = [f"{len(on_host)} lines of the log name outside compilation, such as: {on_host[0][:200]}"] if on_host else []
    problems += [f"{text}." for text in [long_call_text(seconds[1])] if text]
    facts = {
        "first call": f"{seconds[0]:.2f} s, with tracing and compilation",
        "second call": f"{seconds[1]:.3f} s for {TRAINING['rounds_per_call']} rounds",
        "outside compilation": f"{len(on_host)} of {len(log)} lines of the log (TF_CPP_MIN_LOG_LEVEL=0)",
    }
    return Findings(facts, problems)


def sigterm(hour: Hour) -> Findings:
    """Stop a training with SIGTERM, resume it, and compare it with the one that was not stopped, bit for bit."""
    folder, undisturbed = hour.folder / "sigterm", _results(hour.folder / "float32")
    command = _training(hour, folder, devices=hour.devices, precision="float32")
    log = folder / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=_environment()
        )
        try:
            _wait(process, lambda: _rounds_done(log) >= STOP_AFTER_ROUNDS)
            process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            raise StageError("The training did not end within 120 s of SIGTERM.") from None
        finally:
            process.kill()
            process.wait()
    took = time.monotonic() - sent
    stopped = re.search(r"stopped by SIGTERM after round (\d+)", log.read_text(errors="replace"))
    if process.returncode != 1 or not stopped:
        raise StageError(f"After SIGTERM the training ended with exit code {process.returncode}: {_last_line(log)}.")
    saved = [path.parent.name for path in folder.glob("work/checkpoints/*/round-*/manifest.json")]
    _run(command, folder / "log-resumed.txt", TRAINING_SECONDS)
    resumed = re.search(r"Resuming from round (\d+)", (folder / "log-resumed.txt").read_text(errors="replace"))
    problems = unequal(_results(folder), undisturbed)
    if not resumed or resumed[1] != stopped[1]:
        problems.insert(
            0, f"It stopped after round {stopped[1]}, and resumed {f'from {resumed[1]}' if resumed else 'nothing'}."
        )
    facts = {
        "stopped": f"after round {stopped[1]} of {TRAINING['rounds']}, {took:.1f} s after SIGTERM",
        "checkpoint": ", ".join(saved) or "none",
        "resumed": f"from round {resumed[1]}" if resumed else "no",
        "compared": "metrics and all variables with those of the training that was not stopped: "
        + ("equal, bit for bit" if not problems else "not equal"),
    }
    return Findings(facts, problems)


def throughput(hour: Hour) -> Findings:
    """Time the networks of configs/celeba64.toml on synthetic images, beside tpu-check's bound."""
    big, seconds = (hour.big, 60) if uses_tpu(hour.devices) else (_small_enough(hour), 5)
    train, log = big.train.model_copy(update={"devices": hour.devices}), hour.folder / "throughput.txt"
    _run(speed.command(train, big.image_size, big.channels, big.images, seconds, train.rounds_per_call), log, 1500)
    found = speed.read_speed(log.read_text())
    images_per_second = found.rounds_per_second * train.n_critic * train.global_batch_size
    facts = {
        "training": f"{big.image_size}×{big.image_size}×{big.channels}, global batch {train.global_batch_size:,}, "
        f"{found.precision}, {big.images:,} synthetic images, {train.rounds_a_call} rounds a call",
        "first call": f"{found.first_call_seconds:.1f} s, with tracing and compilation",
        "measured": f"{found.rounds} rounds in {found.seconds:.1f} s on {found.replicas} replicas",
        "speed": f"{found.rounds_per_second:.3g} rounds/s, {images_per_second:,.0f} images/s of the critic",
    }
    problems = list[str]()
    if hour.bound is None:
        facts["bound"] = "no report of tpu-check was given (--tpu-check FILE)"
    elif not uses_tpu(hour.devices) or hour.bound.replicas != found.replicas:
        facts["bound"] = f"not comparable: tpu-check's report is for {hour.bound.topology}, {hour.bound.replicas} replicas"
    else:
        facts["bound"], problems = beside(hour.bound, images_per_second)
    return Findings(facts, problems)


def beside(bound: TpuCheckSummary, found: float) -> tuple[str, list[str]]:
    """Return images/s beside tpu-check's bound, and a sentence if they are more, which cannot be."""
    most = bound.images_per_second_at_most
    text = f"at most {most:,.0f} images/s ({bound.topology}, bound by {bound.bound_by}): {found / most:.0%} of it"
    wrong = [f"{found:,.0f} images/s are more than the bound of {most:,.0f}: one of the two is wrong."]
    return text, wrong if found > most else []


STAGES: dict[str, tuple[str, Callable[[Hour], Findings]]] = {
    "machine": ("user, device files, packages", machine),
    "replicas": ("the strategy and its replicas", replicas),
    "float32": ("a training in float32, as on one CPU", float32),
    "bfloat16": ("a training in bfloat16, as on one CPU", bfloat16),
    "calls": ("the second host call, and work on the host", calls),
    "sigterm": ("SIGTERM, checkpoint, resumed", sigterm),
    "throughput": ("configs/celeba64.toml on synthetic images", throughput),
}


def uses_tpu(devices: str) -> bool:
    """Return whether `devices` is a TPU."""
    return devices.startswith("tpu")


def _probed(hour: Hour, what: str, limit_seconds: int) -> dict[str, str]:
    log = hour.folder / f"{what}.txt"
    _run([sys.executable, "-m", "components.tpu_check.first_hour.probe", what, hour.devices], log, limit_seconds)
    return dict(json.loads(log.read_text().splitlines()[-1]))


def _as_on_a_cpu(hour: Hour, precision: str, bounds: Bounds) -> Findings:
    names = (hour.devices, "cpu:1")
    folders = (hour.folder / precision, hour.folder / f"{precision}-cpu")
    for devices, folder in zip(names, folders, strict=True):
        _run(_training(hour, folder, devices=devices, precision=precision), folder / "log.txt", TRAINING_SECONDS)
    facts, problems = compared(_results(folders[0]), _results(folders[1]), bounds, names)
    return Findings(facts, problems)


def _training(hour: Hour, folder: Path, **changes: Any) -> list[str]:
    """Return the command of a training on discs, whose configuration and results are in `folder`."""
    data = hour.folder / "data"
    if not data.exists():
        write_discs(data)
    folder.mkdir(parents=True)
    config = TrainConfig(**TRAINING, **changes)
    lines = [f"{name} = {json.dumps(getattr(config, name))}\n" for name in (*TRAINING, *changes)]
    (folder / "train.toml").write_text("[train]\n" + "".join(lines))
    paths = {"config": folder / "train.toml", "dataset": data / "dataset", "validation": data / "validation"}
    paths |= {"work-dir": folder / "work", "out": folder / "model"}
    return [
        sys.executable,
        "-m",
        "components.train",
        *(word for name, path in paths.items() for word in (f"--{name}", str(path))),
    ]


def _results(folder: Path) -> Trained:
    try:
        return read_trained(folder)
    except (OSError, ValueError, IndexError):
        raise StageError(f"The training in {folder} has no results.", f"Look at {folder / 'log.txt'}.") from None


def _small_enough(hour: Hour) -> TpuCheckConfig:
    """Return the training with a batch that a CPU computes in seconds, one round a call."""
    one = dict.fromkeys(("rounds_per_call", "log_every_rounds", "checkpoint_every_rounds", "sample_every_rounds"), 1)
    train = hour.big.train.model_copy(update={"global_batch_size": 8, **one})
    return hour.big.model_copy(update={"images": 1000, "train": train})


def _environment() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}


def _run(command: list[str], log: Path, limit_seconds: float) -> None:
    """Run a command to its end; its output goes to `log`. Raises StageError if it fails or takes too long."""
    with log.open("wb") as stream:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=_environment(),
                timeout=limit_seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise StageError(f"It did not end within {limit_seconds:.0f} s; its last output was: {_last_line(log)}.") from None
    if done.returncode:
        raise StageError(f"It ended with exit code {done.returncode}: {_last_line(log)}.", f"The whole output is in {log}.")


def _wait(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Wait until a condition holds. Raises StageError if the process ends first or takes too long."""
    end = time.monotonic() + TRAINING_SECONDS
    while not condition():
        if process.poll() is not None:
            raise StageError(f"The training ended with exit code {process.returncode} before SIGTERM was sent.")
        if time.monotonic() > end:
            raise StageError(f"The training did not reach round {STOP_AFTER_ROUNDS} within {TRAINING_SECONDS} s.")
        time.sleep(0.01)


def _rounds_done(log: Path) -> int:
    ticks = re.findall(r"^… (\d+)/", log.read_text(errors="replace"), re.MULTILINE)
    return int(ticks[-1]) if ticks else 0


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:400].rstrip(".") if lines else "nothing"
