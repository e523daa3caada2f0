"""Mount a bucket as a folder with the real gcsfuse, as Vertex AI does under /gcs."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.engines import installed_program
from tests.support.local_runs import wait_for
from tests.support.servers.object_store import BUCKET

# The first: do not ask for the bucket's layout by gRPC. The second: rename with a copy, since the server has no rename.
FLAGS = ("--foreground", "--enable-hns=false", "--enable-atomic-rename-object=false", "--anonymous-access", "--implicit-dirs")
NO_CACHES = ("--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0")  # gcsfuse's own: 60 s and 5 s


class Mount:
    """A bucket at `folder`; its daemon can be killed and started again."""

    def __init__(self, url: str, folder: Path, flags: tuple[str, ...] = ()) -> None:
        self.folder, self.log = folder, folder.parent / f"{folder.name}.log"
        self.command = [str(installed_program("gcsfuse")), *FLAGS, f"--custom-endpoint={url}/storage/v1/", *flags]
        self.command += [BUCKET, str(folder)]

    def start(self) -> None:
        """Mount the bucket."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: self.daemon.poll() is not None or os.path.ismount(self.folder), seconds=60)
        assert self.daemon.poll() is None, self.log.read_text()

    def kill(self) -> None:
        """End the daemon as `kill -9` does: what it has not sent is lost, and the folder answers «not connected»."""
        self.daemon.kill()
        self.daemon.wait(30)

    def restart(self) -> None:
        """Mount the bucket again after `kill`."""
        self._unmount("-uz")
        self.start()

    def stop(self) -> None:
        """Unmount, even if files are still open or the daemon has ended."""
        if self._unmount("-u") != 0:
            self._unmount("-uz")
        try:
            self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def _unmount(self, option: str) -> int:
        return subprocess.run(["fusermount3", option, str(self.folder)], capture_output=True, check=False).returncode


@contextlib.contextmanager
def mounted(url: str, folder: Path, flags: tuple[str, ...] = ()) -> Iterator[Mount]:
    """Mount the bucket of the object store at `url`; unmount it at the end. Raises EngineMissingError."""
    mount = Mount(url, folder, flags)
    mount.start()
    try:
        yield mount
    finally:
        mount.stop()
