"""`wgan-pipeline watch`: which run, what the server answers, the file, and wrong input."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.common.artifacts import write_json
from components.common.errors import TrainingDivergedError
from components.common.store import store_at
from components.report.run import run as report
from pipeline.commands.watch import find_run
from tests.support.command_line import run as command
from tests.support.local_runs import ROOT
from tests.support.report_runs import Run
from tests.support.stores import location, servers

__all__ = ["location", "servers"]  # fixtures


def make_run(root: Path, name: str, *, failed: bool = False) -> Path:
    """Write the folder of a run that has ended to root/runs; return that folder of runs."""
    run = Run(root / name)
    if failed:
        run.ingest()
        run.validate()
        run.break_training(TrainingDivergedError("penalty is nan in round 7.", "Lower the rates."))
    else:
        run.all()
    folder = root / "runs" / name
    description = run.description.model_copy(update={"run_id": name})
    write_json(folder / "run.json", description.model_dump(mode="json"))
    report(description, folder=folder, status="")
    return folder.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs that have ended: one failed, the newest succeeded."""
    root = tmp_path_factory.mktemp("watched")
    make_run(root, "20260101-000000", failed=True)
    return make_run(root, "20260102-000000")


@pytest.fixture(scope="module")
def port(runs: Path) -> Iterator[int]:
    """The port of a server for the newest run; it must end at Ctrl-C, without an error."""
    words = [sys.executable, "-m", "pipeline", "watch", "--runs-dir", str(runs), "--port", "0"]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Run 20260102-000000: Published as v0003. KID 0.0123")
        match = re.fullmatch(r"Page http://127\.0\.0\.1:(\d+)/; .*\n", process.stdout.readline())
        assert match
        yield int(match[1])
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == ""


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    assert answer.getheader("Cache-Control") == "no-store" or answer.status == 501
    return answer.status, answer.read().decode()


def test_page_and_report_are_served(port: int, runs: Path) -> None:
    status, page = get(port, "/")
    assert status == 200
    assert '<a href="report.html">' in page
    assert get(port, "/report.html") == (200, (runs / "20260102-000000" / "report.html").read_text())


@pytest.mark.parametrize("path", ["/run.json", "/../20260101-000000/report.html", "/report.html/", "//etc/passwd", "/%2e%2e/"])
def test_nothing_else_is_served(port: int, path: str) -> None:
    assert get(port, path) == (404, "There is only / and, when the run has ended, /report.html.")


def test_a_name_that_another_site_points_here_is_refused(port: int) -> None:
    for host in ("localhost", "localhost:9000", "127.0.0.1:80"):
        assert get(port, "/", Host=host)[0] == 200
    for host in ("example.org", "example.org:80", "", "127.0.0.1.nip.io", "localhost.example.org"):
        assert get(port, "/", Host=host)[0] == 403


def test_nothing_can_be_sent(port: int) -> None:
    assert get(port, "/", "POST")[0] == 501


def test_a_browser_that_leaves_early_is_no_error(port: int) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert get(port, "/")[0] == 200


def test_a_port_that_is_taken(port: int, runs: Path) -> None:
    code, output = command("watch", "--runs-dir", str(runs), "--port", str(port))
    assert code == 2
    problem = f"Port {port} on 127.0.0.1 cannot be used: Address already in use."
    assert output.endswith(f"{problem} Use --port N, or --port 0 for any free one.")


def test_a_failed_run_says_why_and_its_exit_code_is_that_of_watch(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    code, output = command("watch", "20260101-000000", "--runs-dir", str(runs), "--out", str(file))
    assert code == 1
    assert output.startswith("Run 20260101-000000: train failed. penalty is nan in round 7.\n")
    assert "Lower the rates." in file.read_text()
    assert (runs / "20260101-000000" / "report.html").as_uri() in file.read_text()


def test_a_run_that_does_not_exist(runs: Path, tmp_path: Path) -> None:
    for name, cure in (("20260101-000001", "Did you mean 20260101-000000?"), ("nightly", "wgan-pipeline runs lists the runs.")):
        assert command("watch", name, "--runs-dir", str(runs)) == (2, f"There is no run {name} in {runs}. {cure}")
    problem = f"There are no runs in {tmp_path}/none yet. Start one with wgan-pipeline run, or use --runs-dir."
    assert command("watch", "--runs-dir", f"{tmp_path}/none") == (2, problem)


def test_a_run_of_another_version(tmp_path: Path) -> None:
    write_json(tmp_path / "old" / "run.json", {})
    code, output = command("watch", "old", "--runs-dir", str(tmp_path))
    assert code == 2
    assert f"{tmp_path}/old was written by another version: " in output


def test_a_run_of_a_cluster_is_watched_where_its_volume_or_bucket_is_seen(tmp_path: Path, location: str) -> None:
    """Its journal is in run.dir/.work, by the path of the cluster."""
    run, runs = Run(tmp_path / "run"), store_at(location)
    run.ingest()
    run.validate()
    run.write_entry("train", "running", run.started_at)
    run.progress()
    there = {"run_id": "nightly-1", "work_dir": "/mnt/wgan/.work"}
    there["config"] = {**run.description.config, "run": {"dir": "/mnt/wgan"}}  # type: ignore[assignment]
    runs.write("nightly-1/run.json", [run.description.model_copy(update=there).model_dump_json().encode()])

    def copy_work() -> None:
        for file in (file for file in run.work_dir.rglob("*") if file.is_file()):
            runs.write(f".work/{file.relative_to(run.work_dir)}", [file.read_bytes()])

    copy_work()
    for name in ("nightly-1", "latest"):
        page = find_run(name, location, in_file=True).page()
        assert page.verdict.title == "Training: 50\N{NO-BREAK SPACE}%"
        assert (len(page.training.samples), len(page.training.charts), page.over) == (6, 7, False)
    run.train()
    run.evaluate()
    run.gate()
    run.push()
    copy_work()
    report(run.description, folder=f"{location}/nightly-1", status="")
    code, output = command("watch", "--runs-dir", location, "--out", str(tmp_path / "page.html"))
    assert (code, output.splitlines()[0][:41]) == (0, "Run nightly-1: Published as v0003. KID 0.")
