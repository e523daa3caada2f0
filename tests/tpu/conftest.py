"""The fixture for tests that need the TPU compiler."""

from __future__ import annotations

import pytest

from components.tpu_check import compiler
from components.tpu_check.errors import CompilerMissingError


@pytest.fixture(scope="session")
def tpu_compiler(in_ci: bool) -> None:
    """Skip a test if the compiler is not installed; in CI, fail."""
    try:
        compiler.check_versions()
    except CompilerMissingError as error:
        if in_ci:
            raise
        pytest.skip(str(error))
