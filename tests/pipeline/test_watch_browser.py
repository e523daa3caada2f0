"""`wgan-pipeline watch` in a real browser, beside a real run: from its first rounds to its report."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import browse, console, opened
from tests.support.local_runs import ROOT, start, wait_for

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

SETTINGS = (
    "train.rounds=4000", "train.rounds_per_call=20", "train.log_every_rounds=20", "train.checkpoint_every_rounds=1000",
    "train.sample_every_rounds=200", "train.score_every_images=20000", "train.n_critic=2",
)  # fmt: skip
WIDE, NARROW, HEIGHT = 1200, 390, 1600
FRAMES = """<!doctype html><title></title><style>body { margin: 0; display: flex } iframe { border: 0; flex: none }</style>
<iframe src="{url}" width="1200" height="1600"></iframe>
<iframe src="{url}" width="390" height="1600"></iframe>"""


def shown(chromium: str, frames: Path, shot: Path) -> bool:
    """Return whether the page has many grey levels, wide and narrow; a blank page has one."""
    done = browse(chromium, frames.as_uri(), f"--screenshot={shot}", f"--window-size={WIDE + NARROW},{HEIGHT}")
    assert console(done) == []
    pixels = np.asarray(Image.open(shot).convert("L"))
    return min(len(np.unique(part)) for part in (pixels[:, :WIDE], pixels[:, WIDE:])) > 50


def until(found: Callable[[str], bool], chromium: str, url: str, seconds: float = 120.0) -> str:
    """Open the page anew until it is as wanted; return its DOM."""
    deadline = time.monotonic() + seconds
    while True:
        done = browse(chromium, url, "--dump-dom")
        assert console(done) == []
        if found(done.stdout):
            return done.stdout
        assert time.monotonic() < deadline, done.stdout


def rounds(dom: str) -> int:
    match = re.search(r'<progress value="(\d+)" max="4000"', dom)
    return int(match[1]) if match else 0


def test_a_run_is_watched_from_its_first_rounds_to_its_report(chromium: str, tmp_path: Path) -> None:
    runs, frames = tmp_path / "runs", tmp_path / "frames.html"
    with contextlib.ExitStack() as processes:
        run = start(runs, *SETTINGS)
        processes.callback(run.kill)
        wait_for(lambda: bool(list(runs.glob("2*/run.json"))))
        words = [sys.executable, "-m", "pipeline", "watch", "--runs-dir", str(runs), "--port", "0"]
        watch = processes.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        processes.callback(watch.kill)
        assert watch.stdout is not None
        name = watch.stdout.readline().split()[1].rstrip(":")
        match = re.search(r"http://\S+/", watch.stdout.readline())
        assert match
        url = match[0]
        frames.write_text(FRAMES.replace("{url}", url))
        first = until(lambda dom: rounds(dom) > 0, chromium, url)
        assert re.search(r"Round [\d,]+ of 4,000 at [\d.]+ rounds/s; about .* left\.", first)
        title = processes.enter_context(opened(chromium, url))
        titles = [title()]
        later = until(lambda dom: rounds(dom) > rounds(first) and "KID during training" in dom, chromium, url)
        assert later.count("<img") > first.count("<img") >= 2
        assert later.count("<svg") == 7
        wait_for(lambda: shown(chromium, frames, tmp_path / "training.png"))  # not always painted when it is loaded
        while run.poll() is None:
            titles.append(title())
            time.sleep(0.5)
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
        assert f"Watch it: wgan-pipeline watch {name} --runs-dir {runs}\n" in output
        ended = until(lambda dom: "The run has ended." in dom, chromium, url)
        assert "<h1>Published as v0001</h1>" in ended
        assert '<a href="report.html">Open the report</a>' in ended
        wait_for(lambda: title() == f"Published as v0001 · run {name}")
        assert len({each for each in titles if each.startswith("Training: ")}) >= 3, "the open page loads itself again"
        wait_for(lambda: shown(chromium, frames, tmp_path / "ended.png"))  # not always painted when it is loaded
        report = browse(chromium, f"{url}report.html", "--dump-dom").stdout
        assert f"<title>Published as v0001 · run {name}</title>" in report
