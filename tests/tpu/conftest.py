"""The TPU compiler, where it is installed."""

from __future__ import annotations

import pytest

from components.tpu_check import compiler
from components.tpu_check.errors import CompilerMissingError


@pytest.fixture(scope="session")
def tpu_compiler(in_ci: bool) -> None:
    """Skip a test whose compiler is not installed here; in CI that is a failure."""
    try:
        compiler.check_versions()
    except CompilerMissingError as error:
        if in_ci:
            raise
        pytest.skip(str(error))
