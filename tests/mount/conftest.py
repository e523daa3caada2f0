"""Fixtures for the tests on a bucket that the real gcsfuse mounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import EngineMissingError, installed_program, is_installable
from tests.support.mount import Mount, mounted
from tests.support.servers.object_store import Store, object_store


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here as heavy."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.heavy)


@pytest.fixture(scope="module")
def store(in_ci: bool) -> Iterator[Store]:
    """Return a running object store with an empty bucket; skip the test where it cannot be mounted."""
    if not Path("/dev/fuse").exists() and not in_ci:
        pytest.skip("this machine has no /dev/fuse")
    try:
        installed_program("gcsfuse"), installed_program("fake-gcs-server")
    except EngineMissingError as error:
        if in_ci and is_installable("gcsfuse"):
            raise
        pytest.skip(str(error))
    with object_store() as store:
        yield store


@pytest.fixture(scope="module")
def mount(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """Return the bucket, mounted with gcsfuse's own caches: 60 s, and 5 s for what does not exist."""
    with mounted(store.url, tmp_path_factory.mktemp("mount") / "bucket") as mount:
        yield mount


@pytest.fixture(scope="module")
def other_mount(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """Return a second mount of the same bucket, with its own caches, as on another machine."""
    with mounted(store.url, tmp_path_factory.mktemp("other") / "bucket") as mount:
        yield mount


@pytest.fixture(autouse=True)
def no_fault_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "store" in request.fixturenames:
        request.getfixturevalue("store").proxy.inject()
