"""The stores that tests of registry and history run on; each test gets an empty one.

A folder, fsspec's memory, and moto's S3 server need nothing else. The tests on fake-gcs-server with the real gcsfs, and on a
real gcsfuse mount of it, are heavy.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest

from tests.support.engines import EngineMissingError
from tests.support.mount import NO_CACHES, mounted
from tests.support.servers.object_store import BUCKET, Store, object_store

KINDS: list[Any] = ["folder", "memory", "s3", pytest.param("gs", marks=pytest.mark.heavy)]
# Most tests are quick enough for every `make test` only without a server.
MOST = [pytest.param(kind, marks=pytest.mark.heavy) if kind == "s3" else kind for kind in KINDS]
MOUNT = pytest.param("mount", marks=[pytest.mark.heavy, pytest.mark.timeout(900)])  # slow, so only for some tests

Application = Callable[[dict[str, Any], Any], Any]


@contextlib.contextmanager
def s3_served(patch: pytest.MonkeyPatch, around: Callable[[Application], Application] = lambda app: app) -> Iterator[None]:
    """Serve s3://bucket with moto's server; `around` may wrap its WSGI application to inject a fault."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    one_at_a_time, moto = threading.Lock(), DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        with one_at_a_time:  # moto tests a condition and writes in two steps
            return list(moto(environ, start_response))

    server = make_server("127.0.0.1", 0, around(application), threaded=True)
    with _in_thread(server):
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        with _fresh("s3"):
            with contextlib.suppress(FileExistsError):
                fsspec.filesystem("s3").mkdir(BUCKET)
            yield


@contextlib.contextmanager
def _in_thread(server: Any) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def _fresh(scheme: str) -> Iterator[None]:
    """Let no client of another server be reused."""
    fsspec.get_filesystem_class(scheme).clear_instance_cache()
    try:
        yield
    finally:
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


@contextlib.contextmanager
def gs_served(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Serve gs://bucket with fake-gcs-server."""
    with object_store() as store:
        patch.setenv("STORAGE_EMULATOR_HOST", store.url)  # gcsfs then uses this server, without an account
        with _fresh("gs"):
            yield store


@pytest.fixture
def bucket(in_ci: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """gs://bucket on a server of its own, with a proxy that injects faults."""
    try:
        with gs_served(monkeypatch) as store:
            yield store
    except EngineMissingError as error:
        if in_ci:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def servers(in_ci: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Return a function that starts a kind of store, unless it runs, and returns the location under which tests can work."""
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        started: dict[str, str] = {}

        def start(kind: str) -> str:
            if kind == "gs":
                started[f"{kind} server"] = stack.enter_context(gs_served(patch)).url
                return f"gs://{BUCKET}"
            if kind == "s3":
                stack.enter_context(s3_served(patch))
                return f"s3://{BUCKET}"
            if kind == "mount":
                locate("gs")
                folder = tmp_path_factory.mktemp("mounts") / "bucket"
                return str(stack.enter_context(mounted(started["gs server"], folder, NO_CACHES)).folder)
            return "memory://stores" if kind == "memory" else str(tmp_path_factory.mktemp("stores"))

        def locate(kind: str) -> str:
            try:
                if kind not in started:
                    started[kind] = start(kind)
            except EngineMissingError as error:
                if in_ci:
                    raise
                pytest.skip(str(error))
            return started[kind]

        yield locate


@pytest.fixture(params=MOST)
def location(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> str:
    """Return an empty location of each kind of store."""
    return f"{servers(request.param)}/{uuid.uuid4().hex[:8]}"
