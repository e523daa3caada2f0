"""A server on this machine that speaks as much of Google Cloud Storage's JSON protocol as reading takes."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Handler(http.server.BaseHTTPRequestHandler):
    """Lists, describes and gives the objects in `server.objects`, a mapping of name to content; those in `broken` fail."""

    protocol_version = "HTTP/1.1"
    server: Any

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
        elif name in self.server.broken:
            self._answer(403, b'{"error": {"code": 403, "message": "not yours"}}')
        elif name not in self.server.objects:
            self._answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        elif url.path.startswith("/download") or query.get("alt") == "media":
            self._give(self.server.objects[name])
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
        return described | {"generation": generation, "timeCreated": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z"}

    def _give(self, content: bytes) -> None:
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        end = min(int(last or len(content) - 1), len(content) - 1)
        self._answer(206, content[int(first) : end + 1], f"bytes {first}-{end}/{len(content)}")

    def _answer(self, status: int, body: bytes, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if part else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def bucket_served() -> Iterator[tuple[str, dict[str, bytes], set[str]]]:
    """Serve gs://bucket; gives the server's address, its objects by name, and the names of those that may not be read."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.objects, server.broken = {}, set()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.objects, server.broken  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
