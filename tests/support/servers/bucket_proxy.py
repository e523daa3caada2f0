"""A proxy between gcsfuse and the object store: counts requests and bytes by operation, and injects faults.

It stands for the network and the limits of Google Cloud Storage (429, 503, no permission, broken connections), which no
server on this machine produces by itself. Bodies are streamed, so large objects need no memory. It is a process of its own:
in the process that uses the mount, a page fault on a mapped file would wait for the proxy while it holds Python's lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import itertools
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.servers.json_server import QuietServer

BLOCK_BYTES = 256 * 1024
RESET = -1  # a fault: break the connection within the body, before the server gets the request
LOST = -2  # a fault: the server carries out the request, then the connection breaks
READS = ("list", "stat", "read", "bucket")
WRITES = ("insert", "part", "copy", "update", "delete", "compose")
HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
REASONS = {403: "forbidden", 429: "rateLimitExceeded", 503: "backendError"}
CONTROL = "/control"  # GET returns the traffic and sets it to zero, PUT replaces the faults


class Fault(NamedTuple):
    """Answer `status` to requests of `operations` for objects whose name matches the pattern `names`, from now on."""

    status: int
    operations: tuple[str, ...] = (*READS, *WRITES)
    names: str = ".*"

    def concerns(self, operation: str, name: str) -> bool:
        """Return whether a request gets this fault."""
        return operation in self.operations and re.fullmatch(self.names, name) is not None


@dataclasses.dataclass
class Traffic:
    """What has passed: requests by operation, answers by status, each request, and the bytes of bodies up and down."""

    requests: Counter[str] = dataclasses.field(default_factory=Counter)
    statuses: Counter[str] = dataclasses.field(default_factory=Counter)
    calls: list[tuple[str, str, int, int, int]] = dataclasses.field(default_factory=list)  # operation, object, status, bytes
    bytes_up: int = 0
    bytes_down: int = 0

    def add(self, operation: str, name: str, status: int, up: int, down: int) -> None:
        """Count one request."""
        self.requests[operation] += 1
        self.statuses[str(status)] += 1
        self.calls.append((operation, name, status, up, down))
        self.bytes_up += up
        self.bytes_down += down


class Proxy:
    """A running proxy: its URL, what has passed it, and the faults that it injects."""

    def __init__(self, url: str) -> None:
        self.url = url

    def traffic(self) -> Traffic:
        """Return what has passed since the last call."""
        with urllib.request.urlopen(self.url + CONTROL) as answer:
            found = Traffic(**json.load(answer))
        return dataclasses.replace(found, requests=Counter(found.requests), statuses=Counter(found.statuses))

    def inject(self, *faults: Fault) -> None:
        """Replace the faults; without any, all requests pass."""
        body = json.dumps(faults).encode()
        urllib.request.urlopen(urllib.request.Request(self.url + CONTROL, body, method="PUT")).close()


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
        if self.path == CONTROL:
            self._control()
            return
        operation, name = operation_of(self.command, self.path)
        content = self._body()
        if operation == "insert" and not name:  # of an upload in two parts, the first of which has the name
            first = next(content, b"")
            name = (re.search(rb'"name": ?"([^"]+)"', first) or [b"", b""])[1].decode()
            content = itertools.chain([first], content)
        body = Counted(content)
        fault = next((fault.status for fault in self.server.faults if fault.concerns(operation, name)), 0)
        if fault == RESET:
            next(iter(body), b"")
            status, down = RESET, self._break()
        elif fault == LOST:
            self._ask(body).read()
            status, down = LOST, self._break()
        elif fault:
            for _ in body:  # read all, as the client would not read the answer before it has sent its body
                pass
            status, down = fault, self._refuse(fault)
        else:
            status, down = self._pass_on(body)
        with self.server.lock:
            self.server.traffic.add(operation, name, status, body.bytes, down)

    def _control(self) -> None:
        content = b"".join(self._body())
        with self.server.lock:
            if self.command == "PUT":
                self.server.faults = [Fault(*fault) for fault in json.loads(content)]
                passed = Traffic()
            else:
                passed, self.server.traffic = self.server.traffic, Traffic()
        self._send_json(200, vars(passed))

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from blocks(self.rfile, size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield from blocks(self.rfile, int(self.headers.get("Content-Length") or 0))

    def _ask(self, body: Counted) -> http.client.HTTPResponse:
        chunked = "Transfer-Encoding" in self.headers
        headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP_HEADERS}
        has_body = chunked or "Content-Length" in self.headers
        self.upstream.request(self.command, self.path, body if has_body else None, headers, encode_chunked=chunked)
        return self.upstream.getresponse()

    def _pass_on(self, body: Counted) -> tuple[int, int]:
        with self._ask(body) as answer:
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
        return self._send_json(status, {"error": error})

    def _send_json(self, status: int, value: Any) -> int:
        content = json.dumps(value).encode()
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
def proxied(upstream_port: int) -> Iterator[Proxy]:
    """Pass requests on to a server on this machine."""
    command = [sys.executable, "-m", __name__, str(upstream_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Proxy(process.stdout.readline().strip())
        finally:
            process.kill()


def main() -> None:
    """Pass requests on to the port that the command line names; print the URL of the proxy."""
    server = QuietServer(("127.0.0.1", 0), Handler)
    server.upstream, server.lock = ("127.0.0.1", int(sys.argv[1])), threading.Lock()  # type: ignore[attr-defined]
    server.traffic, server.faults = Traffic(), []  # type: ignore[attr-defined]
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
