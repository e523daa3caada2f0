"""A headless Chromium."""

from __future__ import annotations

import subprocess
import tempfile

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
