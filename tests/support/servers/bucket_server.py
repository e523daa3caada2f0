"""Stands for Cloud Storage where a fault must be injected that fake-gcs-server cannot produce: lost answers, refusals."""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import hashlib
import http.server
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


class Handler(http.server.BaseHTTPRequestHandler):
    """Lists, describes, returns, stores and deletes the objects in `server.objects`, a mapping of name to content.

    The objects whose names match a pattern in `server.broken` can be neither read nor written.
    """

    protocol_version = "HTTP/1.1"
    server: Any

    def handle_one_request(self) -> None:
        """Handle a request unless `server.fault` returns a status for it: see `bucket_served`."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        if not self.parse_request():
            return
        status = self.server.fault(self.command, unquote(self.path))
        if status:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(status, json.dumps({"error": {"code": status, "message": "injected by the test"}}).encode())
        else:
            getattr(self, f"do_{self.command}")()
            self.wfile.flush()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        bucket, _, rest = url.path.removeprefix("/download").removeprefix("/storage/v1/b/").partition("/")
        name = unquote(rest.removeprefix("o").removeprefix("/"))
        if bucket != "bucket":
            self._answer(404, b"{}")
        elif not rest:
            self._answer(200, json.dumps({"kind": "storage#bucket", "name": bucket}).encode())
        elif not name:
            self._answer(200, json.dumps(self._listing(query.get("prefix", ""), query.get("delimiter"))).encode())
        elif self._is_broken(name):
            self._answer(403, b'{"error": {"code": 403, "message": "no permission"}}')
        elif name not in self.server.objects:
            self._answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        elif url.path.startswith("/download") or query.get("alt") == "media":
            self._send(self.server.objects[name])
        else:
            self._answer(200, json.dumps(self._described(name)).encode())

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if query.get("uploadType") == "multipart":  # two parts: metadata and content
            head, content = _parts_of(body, self.headers["Content-Type"])
            self._store(json.loads(head)["name"], content, query)
        elif query.get("uploadType") == "resumable" and "upload_id" not in query:
            name = query.get("name") or json.loads(body)["name"]
            self.server.uploads.append((name, b""))
            self._answer(
                200, b"{}", {"Location": f"http://{self.headers['Host']}{self.path}&upload_id={len(self.server.uploads) - 1}"}
            )
        elif "upload_id" in query:
            self._take_part(int(query["upload_id"]), body, query)
        else:
            self._answer(404, b"{}")

    def do_PUT(self) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        self._take_part(int(query["upload_id"]), self.rfile.read(int(self.headers.get("Content-Length") or 0)), query)

    def do_DELETE(self) -> None:
        name = unquote(urlsplit(self.path).path.removeprefix("/storage/v1/b/bucket/o/"))
        found = self.server.objects.pop(name, None) is not None
        self._answer(204 if found else 404, b"" if found else b'{"error": {"code": 404, "message": "No such object"}}')

    def _is_broken(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.server.broken)

    def _take_part(self, upload: int, part: bytes, query: dict[str, str]) -> None:
        name, before = self.server.uploads[upload]
        whole = before + part
        self.server.uploads[upload] = (name, whole)
        if (self.headers.get("Content-Range") or "").endswith("/*"):  # more to come
            self._answer(308, b"", {"Range": f"bytes=0-{len(whole) - 1}"})
        else:
            self._store(name, whole, query)

    def _store(self, name: str, content: bytes, query: dict[str, str]) -> None:
        if self._is_broken(name):
            self._answer(403, b'{"error": {"code": 403, "message": "no permission"}}')
            return
        with self.server.writing:
            met = query.get("ifGenerationMatch") != "0" or name not in self.server.objects
            if met:
                self.server.objects[name] = content
        if not met:
            self._answer(412, b'{"error": {"code": 412, "message": "conditionNotMet"}}')
        elif self.server.lose_answer(name):  # stored, but the client gets no answer
            self.close_connection = True
            self.connection.close()
        else:
            self._answer(200, json.dumps(self._described(name)).encode())

    def _listing(self, prefix: str, delimiter: str | None) -> dict[str, Any]:
        names = [name for name in self.server.objects if name.startswith(prefix)]
        deeper = {name for name in names if delimiter and delimiter in name[len(prefix) :]}
        prefixes = {prefix + name[len(prefix) :].partition("/")[0] + "/" for name in deeper}
        return {"items": [self._described(name) for name in names if name not in deeper], "prefixes": sorted(prefixes)}

    def _described(self, name: str) -> dict[str, Any]:
        content = self.server.objects[name]
        generation = str(int.from_bytes(hashlib.sha256(content).digest()[:6], "big"))
        described = {"kind": "storage#object", "name": name, "bucket": "bucket", "size": str(len(content))}
        described["crc32c"] = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
        described["md5Hash"] = base64.b64encode(hashlib.md5(content).digest()).decode()
        return described | {"generation": generation, "timeCreated": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z"}

    def _send(self, content: bytes) -> None:
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        end = min(int(last or len(content) - 1), len(content) - 1)
        part = {"Content-Range": f"bytes {first}-{end}/{len(content)}", "Content-Type": "application/octet-stream"}
        self._answer(206, content[int(first) : end + 1], part)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _parts_of(body: bytes, content_type: str) -> list[bytes]:
    """Return the content of each part of a multipart/related body, byte for byte."""
    boundary = re.search(r"boundary=[\"']?([^\"';]+)", content_type)
    assert boundary is not None
    mark = b"--" + boundary[1].encode()
    assert body.rstrip().endswith(mark + b"--")
    # Only the first two marks and the last one are boundaries: the content can contain others.
    _, head, rest = body.split(mark, 2)
    parts = (head, rest[: rest.rindex(mark)])
    return [re.sub(rb"\r?\n\Z", b"", re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1]) for part in parts]


class Server(http.server.ThreadingHTTPServer):
    """A server that ignores clients that disconnect."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def bucket_served(
    fault: Callable[[str, str], int] = lambda *_: 0, lose_answer: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[str, dict[str, bytes], set[str]]]:
    """Serve gs://bucket; yields the URL of the server, its objects by name, and the names of unreadable objects.

    `fault` returns, for each request (method, path), a status to answer instead, or 0. `lose_answer` returns, for each
    object that was written, whether to drop the connection before the answer is sent.
    """
    server = Server(("127.0.0.1", 0), Handler)
    server.objects, server.broken, server.uploads = {}, set(), []  # type: ignore[attr-defined]
    server.fault, server.lose_answer, server.writing = fault, lose_answer, threading.Lock()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.objects, server.broken  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
