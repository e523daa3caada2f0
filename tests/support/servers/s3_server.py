"""Amazon S3 cannot be reached from the tests: Versity's gateway stands for it, a real S3 server that keeps objects as files.

Unlike moto it serves requests at the same time, and of several that create the same object it lets one succeed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.engines import installed_program
from tests.support.local_runs import wait_for
from tests.support.servers.object_store import BUCKET, answers, free_port

KEY, SECRET = "key", "secret"


class S3Server(NamedTuple):
    """A running server with one bucket: its URL, and the folder with the bucket's objects."""

    url: str
    bucket: Path

    def environment(self) -> dict[str, str]:
        """Return the variables with which a process uses this server."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run an S3 server with one empty bucket. Raises EngineMissingError if the server is not installed."""
    program, port = installed_program("versitygw"), free_port()
    (folder / BUCKET).mkdir()
    options = [f"--port=127.0.0.1:{port}", f"--access={KEY}", f"--secret={SECRET}", "--keep-alive", "--quiet"]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        server = subprocess.Popen([str(program), *options, "posix", str(folder)], stdout=log, stderr=log)
    try:
        wait_for(lambda: server.poll() is not None or answers(port), seconds=60)
        assert server.poll() is None, f"versitygw ended with {server.returncode}"
        yield S3Server(f"http://127.0.0.1:{port}", folder / BUCKET)
    finally:
        server.kill()
        server.wait(30)


@contextlib.contextmanager
def used_here(server: S3Server) -> Iterator[None]:
    """Let this process use the server."""
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
