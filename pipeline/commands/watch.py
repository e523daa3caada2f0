"""`watch`: the page of a run while it goes on, served on 127.0.0.1 or written to a file."""

from __future__ import annotations

import contextlib
import difflib
import http.server
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from components.common.addresses import is_address, joined, local_path
from components.common.artifacts import write_text
from components.common.errors import ConfigError, PipelineError, first_line
from components.common.store import store_at
from components.report.description import RunDescription
from pipeline.commands.options import RunsDir
from pipeline.commands.runs import local_runs, newest_first
from pipeline.targets.local import process

if TYPE_CHECKING:
    from components.report.live import Watched

PORT = 8008
LOCAL_NAMES = ("127.0.0.1", "localhost")
CLIENT_SECONDS = 30


def watch(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run; latest is the newest one.")] = "latest",
    runs_dir: RunsDir = "runs",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = PORT,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write the page to a file until the run ends, with its exit code; no server."),
    ] = None,
) -> None:
    """Show how far a run is, with samples, curves and scores, on a page that loads itself again until the run ends."""
    from components.report.live import REFRESH_SECONDS

    watched = find_run(run_id, runs_dir, in_file=out is not None)
    page = watched.page()
    print(f"Run {watched.run.run_id}: {page.verdict.title}. {page.verdict.reason}".rstrip())
    with contextlib.suppress(KeyboardInterrupt):
        if out is None:
            _serve(watched, port)
            return
        print(f"Page {out}; Ctrl-C ends watching.", flush=True)
        while True:
            page = watched.page()
            write_text(out, page.html())
            if page.over:
                raise typer.Exit(page.exit_code)
            time.sleep(REFRESH_SECONDS)


def find_run(run_id: str, runs_dir: str, *, in_file: bool) -> Watched:
    """Return a run of a folder of runs. Raises ConfigError if there is no such run."""
    from components.report.live import Watched  # imports NumPy, which --help does not need

    store = store_at(runs_dir)
    if run_id == "latest":
        with local_runs(runs_dir) as local:
            names = [folder.name for folder in newest_first(local)]
        if not names:
            raise ConfigError(f"There are no runs in {runs_dir} yet.", "Start one with wgan-pipeline run, or use --runs-dir.")
        run_id = names[0]
    try:
        run = RunDescription.model_validate_json(store.read(f"{run_id}/run.json"))
    except FileNotFoundError:
        near = difflib.get_close_matches(Path(run_id).name, sorted(store.names()), n=1)
        cure = f"Did you mean {near[0]}?" if near else "wgan-pipeline runs lists the runs."
        raise ConfigError(f"There is no run {run_id} in {runs_dir}.", cure) from None
    except ValidationError as error:
        problem = f"{joined(runs_dir, run_id)} was written by another version: {first_line(error)}."
        raise ConfigError(problem, "Use the version that ran it.") from None
    runs = run.config.get("run", {}).get("dir", "")
    if run.work_dir == joined(runs, ".work"):  # the volume of a cluster may be mounted here at another path
        run = run.model_copy(update={"work_dir": joined(runs_dir, ".work")})
    if is_address(runs_dir):
        return Watched(run, store_at(runs_dir, run_id), lambda: "running or killed", "" if in_file else "report.html")
    folder = Path(local_path(runs_dir)).absolute() / run_id
    link = (folder / "report.html").as_uri() if in_file else "report.html"
    return Watched(run, store_at(folder), lambda: process.state(folder), link)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET of the page and of the report, to names of this machine only: other sites must not read them."""

    server: _Server
    server_version, sys_version, timeout = "wgan-pipeline", "", CLIENT_SECONDS

    def do_GET(self) -> None:
        """Answer a request."""
        watched = self.server.watched
        if self.headers.get("Host", "").partition(":")[0] not in LOCAL_NAMES:
            self._answer(403, "Only for 127.0.0.1 and localhost.")
        elif self.path == "/":
            try:
                self._answer(200, watched.page().html(), "text/html")
            except PipelineError as error:
                self._answer(503, str(error))
        elif self.path == "/report.html" and "report.html" in watched.folder.names():
            self._answer(200, watched.folder.read("report.html").decode(), "text/html")
        else:
            self._answer(404, "There is only / and, when the run has ended, /report.html.")

    def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
        content = text.encode()
        with contextlib.suppress(ConnectionError):  # the browser has left
            self.send_response(status)
            for name, value in (
                ("Content-Type", f"{kind}; charset=utf-8"),
                ("Content-Length", str(len(content))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                *([("Refresh", "5")] if status == 503 else []),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, watched: Watched, port: int) -> None:
        self.watched = watched
        super().__init__(("127.0.0.1", port), _Handler)


def _serve(watched: Watched, port: int) -> None:
    """Serve the page until Ctrl-C. Raises ConfigError if the port cannot be used."""
    try:
        server = _Server(watched, port)
    except OSError as error:
        problem = f"Port {port} on 127.0.0.1 cannot be used: {first_line(error)}."
        raise ConfigError(problem, "Use --port N, or --port 0 for any free one.") from None
    with server:
        print(f"Page http://127.0.0.1:{server.server_port}/; Ctrl-C ends watching, not the run.", flush=True)
        server.serve_forever()
