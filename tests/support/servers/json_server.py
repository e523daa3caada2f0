"""The base of the servers that stand in for a platform: JSON over HTTP on this machine, with faults on request."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from google.protobuf import json_format

Json = dict[str, Any]
Answer = tuple[int, Any]
Route = tuple[str, str, Callable[..., Answer]]
FAULT = "injected by the test"


class BadRequestError(Exception):
    """A request that does not follow the protocol."""


@dataclass
class Service:
    """The state of a server, and the faults that a test wants; each fault is a function of method and path."""

    ROUTES: ClassVar[tuple[Route, ...]] = ()

    token: str = ""
    requests: list[str] = field(default_factory=list)
    fault: Callable[[str, str], tuple[int, dict[str, str]] | None] = lambda *_: None  # answer with this status and headers
    loses_answer: Callable[[str, str], bool] = lambda *_: False  # carry out the request, then close without an answer
    resets: Callable[[str, str], bool] = lambda *_: False  # break the connection when half of the body has arrived
    delay: Callable[[str, str], float] = lambda *_: 0.0  # seconds before the request is carried out

    def path(self, path: str) -> str | None:
        """Return the path of a URL without the prefix of the API, None if it does not have it."""
        return path

    def error(self, status: int, message: str) -> Json:
        """Return the body of an error."""
        return {"message": message}


class JsonHandler(http.server.BaseHTTPRequestHandler):
    """Answers for `server.service`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its headers
    server: Any

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        service: Service = self.server.service
        url = urlsplit(self.path)
        path = service.path(unquote(url.path))
        shown = url.path if path is None else path
        service.requests.append(f"{method} {shown}")
        length = int(self.headers.get("Content-Length") or 0)
        if service.resets(method, shown):
            self.rfile.read(length // 2)
            # Without a FIN, as a machine that dies.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return self._close()
        body = self.rfile.read(length)
        time.sleep(service.delay(method, shown))
        if fault := service.fault(method, shown):
            return self._answer(fault[0], service.error(fault[0], FAULT), fault[1])
        if service.token and self.headers.get("Authorization") != f"Bearer {service.token}":
            return self._answer(401, service.error(401, "Unauthenticated"))
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        for verb, pattern, answer in service.ROUTES if path is not None else ():
            if verb == method and (found := re.fullmatch(pattern, path or "")):
                try:
                    status, content = answer(service, self._content(body), query, *found.groups())
                except (BadRequestError, json_format.ParseError) as error:
                    status, content = 400, service.error(400, str(error))
                return self._close() if service.loses_answer(method, shown) else self._answer(status, content)
        return self._answer(404, service.error(404, f"{shown} does not exist"))

    def _content(self, body: bytes) -> Any:
        return json.loads(body) if body else {}

    def _close(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response_only(status)
        plain = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Date": self.date_time_string()}
        for key, value in (plain | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    """A server that prints nothing when a client closes its connection."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def served(service: Service, handler: type[JsonHandler] = JsonHandler) -> Iterator[str]:
    """Serve a service; yields its URL."""
    server = QuietServer(("127.0.0.1", 0), handler)
    server.service = service  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page_of(items: list[Any], query: Json, token: str) -> tuple[list[Any], str]:
    """Return a page of one item, and the token of the next page ("": none): a client must read all pages."""
    at = int(query.get(token) or 0)
    return items[at : at + 1], str(at + 1) if at + 1 < len(items) else ""
