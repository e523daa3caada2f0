"""What a step imports before its own first line: each step is a process, so what it does not need costs time in every run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from components.common.imports import UNUSED_BY_TENSORFLOW
from components.push.load_test import UNUSED_PACKAGES
from pipeline.config import RunConfig
from pipeline.step_runner import SECTIONS

LARGE = (
    "tensorflow", "keras", "jax", "apache_beam", "pyarrow", "sklearn", "scipy", "matplotlib", "numpy", "PIL", "jinja2",
    "fsspec", "requests", "kubernetes", "tensorflow_metadata", "tensorflow_datasets",
)  # fmt: skip
STEP = "import pipeline.step_runner, components.{step}.config, components.{step}.run"
REPORT = "import pipeline.step_runner, pipeline.snapshot, components.report.run"


def large_imports(program: str) -> set[str]:
    """Return which large packages a new process has imported after this program, as KFP starts it."""
    program = f"import kfp.dsl.executor_main\n{program}\nimport sys\nprint(*(set({LARGE!r}) & set(sys.modules)))"
    environment = {"_KFP_RUNTIME": "true", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import pipeline.step_runner, pipeline.snapshot", set()),
        (STEP.format(step="ingest"), {"numpy", "PIL"}),
        (STEP.format(step="validate"), {"numpy", "PIL"}),
        (STEP.format(step="tpu_check"), {"numpy"}),
        (STEP.format(step="evaluate"), {"numpy", "PIL"}),
        (STEP.format(step="gate"), set()),
        (STEP.format(step="push"), set()),
        (REPORT, {"numpy", "PIL", "jinja2"}),
    ],
)
def test_a_step_starts_with_what_it_needs(program: str, expected: set[str]) -> None:
    assert large_imports(program) == expected


def test_training_starts_without_what_keras_imports_for_its_wrappers() -> None:
    """And what was hidden meanwhile can be imported afterwards, which evaluate does."""
    hidden = f"import sys\nassert not set({UNUSED_BY_TENSORFLOW!r}) & set(sys.modules)"
    found = large_imports(f"{STEP.format(step='train')}\n{hidden}\nimport scipy.stats, sklearn")
    assert {"tensorflow", "keras", "scipy", "sklearn"} <= found
    assert not {"apache_beam", "pyarrow", "matplotlib", "jax", "jinja2"} & found


@pytest.mark.parametrize("first", ["tensorflow", "keras"])
def test_one_import_before_any_of_ours_is_as_light(first: str) -> None:
    assert not set(UNUSED_BY_TENSORFLOW) & large_imports(f"import components, {first}")


def test_the_load_test_hides_the_same_packages_and_keras() -> None:
    assert set(UNUSED_PACKAGES) == {*UNUSED_BY_TENSORFLOW, "keras"}  # it runs without our packages, so it has a list of its own


def test_steps_read_their_own_class_of_section() -> None:
    config = RunConfig.model_validate({"train": {"devices": "tpu"}})
    assert {step: type(section).__name__ for step, section in config.sections().items()} == SECTIONS
