"""An S3 server for the tests of this folder, all of which need minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import EngineMissingError
from tests.support.servers.s3_server import S3Server, s3_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.heavy)


@pytest.fixture(scope="module")
def server(in_ci: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server with an empty bucket."""
    try:
        with s3_server(tmp_path_factory.mktemp("s3")) as server:
            yield server
    except EngineMissingError as error:
        if in_ci:
            raise
        pytest.skip(str(error))
