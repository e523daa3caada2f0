"""Fixtures for tests that need the TPU compiler, or JAX."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.tpu_check import compiler
from components.tpu_check.errors import CompilerMissingError


@pytest.fixture(scope="session")
def tpu_compiler(in_ci: bool) -> None:
    """Skip a test if the compiler is not installed; in CI, fail."""
    _skip_unless(in_ci, compiler.check_versions)


@pytest.fixture(scope="session")
def jax_expected(in_ci: bool) -> None:
    """Skip a test if the expected JAX is not installed; in CI, fail."""
    _skip_unless(in_ci, lambda: compiler.check_expected("jax", "jaxlib"))


def _skip_unless(in_ci: bool, check: Callable[[], object]) -> None:
    try:
        check()
    except CompilerMissingError as error:
        if in_ci:
            raise
        pytest.skip(str(error))
