"""Google Cloud Storage cannot be reached from the tests (it needs a network and an account): fake-gcs-server stands for it.

It is a real server of the same JSON API with generations and preconditions, and keeps objects in memory. A counting proxy
lies in front of it (bucket_proxy.py).
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from tests.support.engines import installed_program
from tests.support.local_runs import wait_for
from tests.support.servers.bucket_proxy import Proxy, proxied

BUCKET = "bucket"


class Store(NamedTuple):
    """A running object store with one bucket, and the proxy in front of it, which counts what does not use `direct_url`."""

    proxy: Proxy
    direct_url: str

    @property
    def url(self) -> str:
        """The URL of the proxy."""
        return self.proxy.url

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the objects in the bucket, as the server knows them."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the size in bytes of each object in the bucket."""
        found, page = dict[str, int](), ""
        while True:
            query = urlencode({"prefix": prefix, "pageToken": page, "maxResults": 1000})
            listing = self._json(f"/storage/v1/b/{BUCKET}/o?{query}")
            found |= {item["name"]: int(item["size"]) for item in listing.get("items", ())}
            if not (page := listing.get("nextPageToken", "")):
                return found

    def content(self, name: str) -> bytes | None:
        """Return an object's content, None if it does not exist."""
        url = f"{self.direct_url}/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?alt=media"
        try:
            with urllib.request.urlopen(url) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            error.close()
            return None

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        url = f"{self.direct_url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(name, safe='')}"
        urllib.request.urlopen(urllib.request.Request(url, content, method="POST")).close()

    def _json(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.direct_url + path) as answer:
            return dict(json.load(answer))


@contextlib.contextmanager
def object_store() -> Iterator[Store]:
    """Run an object store with one empty bucket. Raises EngineMissingError if the server is not installed."""
    program, port = installed_program("fake-gcs-server"), free_port()
    direct = f"http://127.0.0.1:{port}"
    with proxied(port) as proxy:
        options = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory", "-log-level=error"]
        # Uploads in several parts and reads name the host: give them the proxy's.
        options += [f"-external-url={proxy.url}", f"-public-host={urlsplit(proxy.url).netloc}"]
        server = subprocess.Popen([str(program), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: server.poll() is not None or answers(port), seconds=60)
            assert server.poll() is None, f"fake-gcs-server ended with {server.returncode}"
            body = json.dumps({"name": BUCKET}).encode()
            request = urllib.request.Request(
                f"{direct}/storage/v1/b?project=test", body, {"Content-Type": "application/json"}, method="POST"
            )
            urllib.request.urlopen(request).close()
            yield Store(proxy, direct)
        finally:
            server.kill()
            server.wait(30)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
