"""A headless Chromium."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.local_runs import wait_for

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--enable-logging=stderr",
)  # fmt: skip


def browse(chromium: str, url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a new profile and exit."""
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, url]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the pages printed to the browser's console."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@contextlib.contextmanager
def opened(chromium: str, url: str) -> Iterator[Callable[[], str]]:
    """Keep a page open; yield a function that returns its present title."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = Path(profile) / "DevToolsActivePort"

        def title() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json") as answer:
                return next(str(tab["title"]) for tab in json.load(answer) if tab["type"] == "page")

        try:
            wait_for(lambda: port.is_file() and bool(port.read_text()))
            yield title
        finally:
            process.terminate()
            process.wait(timeout=30)
