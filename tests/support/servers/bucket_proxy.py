"""A proxy between gcsfuse and the object store: counts requests and bytes by operation, and injects faults.

It stands for the network and the limits of Google Cloud Storage (429, 503, no permission, broken connections), which no
server on this machine produces by itself. Bodies are streamed, so large objects need no memory.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.servers.json_server import QuietServer

BLOCK_BYTES = 256 * 1024
RESET = -1  # a fault: break the connection after half of the body
WRITES = ("insert", "part", "copy", "update", "delete", "compose")
HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
REASONS = {403: "forbidden", 429: "rateLimitExceeded", 503: "backendError"}
Fault = Callable[[str, str], int]


def no_fault(operation: str, name: str) -> int:
    """Let every request pass."""
    return 0


class Traffic:
    """What has passed since the start or the last `reset`: requests by operation, and the bytes of bodies up and down.

    `fault` is called with each operation and object name; it returns a status to answer instead, RESET, or 0.
    """

    def __init__(self) -> None:
        self.fault: Fault = no_fault
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Set all counters to zero."""
        with self.lock:
            self.requests: Counter[str] = Counter()
            self.statuses: Counter[int] = Counter()
            self.calls: list[tuple[str, str, int]] = []
            self.bytes_up = self.bytes_down = 0

    def count(self, operation: str, name: str, status: int, up: int, down: int) -> None:
        """Add one request."""
        with self.lock:
            self.requests[operation] += 1
            self.statuses[status] += 1
            self.calls.append((operation, name, status))
            self.bytes_up += up
            self.bytes_down += down


def operation_of(method: str, target: str) -> tuple[str, str]:
    """Return the operation and the object's name (of a list: its prefix) of a request to the JSON or XML API."""
    url = urlsplit(target)
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    found = re.fullmatch(r"(?:/upload|/download)?/(?:resumable/)?(?:storage/v1/)?b/[^/]+(?:/o(?:/(.*))?)?/?", url.path)
    if found is None:  # XML API: /BUCKET/OBJECT
        return ("read" if method == "GET" else method.lower()), unquote(url.path).lstrip("/").partition("/")[2]
    name = unquote(found[1] or "")
    if "upload_id" in query:
        return "part", query.get("name", "")
    if "uploadType" in query:
        return "insert", query.get("name", "")
    if copied := re.fullmatch(r"(.+)/(?:rewriteTo|copyTo)/b/[^/]+/o/(.+)", found[1] or ""):
        return "copy", unquote(copied[2])
    if name.endswith("/compose"):
        return "compose", name.removesuffix("/compose")
    if method == "GET" and not name:
        return ("list", query.get("prefix", "")) if "/o" in url.path else ("bucket", "")
    if method == "GET":
        return ("read" if query.get("alt") == "media" or url.path.startswith("/download") else "stat"), name
    return {"PATCH": "update", "PUT": "update", "DELETE": "delete"}.get(method, method.lower()), name


class Handler(http.server.BaseHTTPRequestHandler):
    """Passes each request on to `server.upstream` over a connection of its own thread."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection(*self.server.upstream)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def handle_one_request(self) -> None:
        """Handle a request of any method."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        traffic: Traffic = self.server.traffic
        operation, name = operation_of(self.command, self.path)
        body = Counted(self._body())
        fault = traffic.fault(operation, name)
        if fault == RESET:
            next(iter(body), b"")
            status, down = RESET, self._break()
        elif fault:
            for _ in body:  # read all, as the client would not read the answer before it has sent its body
                pass
            status, down = fault, self._refuse(fault)
        else:
            status, down = self._pass_on(body)
        traffic.count(operation, name, status, body.bytes, down)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from blocks(self.rfile, size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield from blocks(self.rfile, int(self.headers.get("Content-Length") or 0))

    def _pass_on(self, body: Counted) -> tuple[int, int]:
        chunked = "Transfer-Encoding" in self.headers
        headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP_HEADERS}
        has_body = chunked or "Content-Length" in self.headers
        self.upstream.request(self.command, self.path, body if has_body else None, headers, encode_chunked=chunked)
        with self.upstream.getresponse() as answer:
            self.send_response_only(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in HOP_HEADERS:
                    self.send_header(key, value)
            return answer.status, self._copy_answer(answer)

    def _copy_answer(self, answer: http.client.HTTPResponse) -> int:
        whole = answer.length is not None or self.command == "HEAD" or answer.status in (204, 304)
        if not whole:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        while block := answer.read1(BLOCK_BYTES):
            self.wfile.write(block if whole else b"%x\r\n%b\r\n" % (len(block), block))
            sent += len(block)
        if not whole:
            self.wfile.write(b"0\r\n\r\n")
        return sent

    def _refuse(self, status: int) -> int:
        reason = REASONS.get(status, "injected")
        error = {"code": status, "message": "injected by the test", "errors": [{"reason": reason, "message": reason}]}
        content = json.dumps({"error": error}).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return len(content)

    def _break(self) -> int:
        # Without a FIN, as a machine that dies.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        return 0

    def log_message(self, format: str, *args: object) -> None:
        pass


class Counted:
    """An iterable of blocks that counts their bytes."""

    def __init__(self, content: Iterator[bytes]) -> None:
        self.content, self.bytes = content, 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self.content:
            self.bytes += len(block)
            yield block


def blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of a stream in blocks."""
    while size:
        block = stream.read(min(size, BLOCK_BYTES))
        if not block:
            raise ConnectionResetError("the client closed the connection within a body")
        size -= len(block)
        yield block


@contextlib.contextmanager
def proxied(upstream: tuple[str, int], port: int = 0) -> Iterator[tuple[str, Traffic]]:
    """Pass requests on to `upstream` (host, port); yields the URL of the proxy and its traffic."""
    server = QuietServer(("127.0.0.1", port), Handler)
    server.upstream, server.traffic = upstream, Traffic()  # type: ignore[attr-defined]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.traffic  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
