"""What registry, history, leases and checkpoints stand on: of simultaneous requests to create an object, one succeeds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest

from components.common.numbered import numbered
from components.common.store import store_at
from tests.support.servers.s3_server import S3Server, used_here
from tests.unit.common.test_store import create_in_process


@pytest.fixture(autouse=True)
def _used(server: S3Server) -> Iterator[None]:
    with used_here(server):
        yield


def test_of_many_processes_one_creates() -> None:
    location = "s3://bucket/of-many"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        for round in range(20):
            won = pool.starmap(create_in_process, [(location, numbered("states", round), index) for index in range(8)], 1)
            assert sum(won) == 1
            assert store_at(location).read(numbered("states", round)) == f"of {won.index(True)}".encode()


def test_a_large_object_is_created_once() -> None:
    """It is uploaded in parts; the condition is on the request that puts them together."""
    store, content = store_at("s3://bucket/large"), bytes(101 << 20)
    assert store.create("small", b"x")  # the first creation is tried twice
    assert store.create("state.npz", content)
    assert not store.create("state.npz", content[:-1] + b"x")
    assert store.size("state.npz") == len(content)
