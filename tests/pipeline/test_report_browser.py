"""The report in a real browser: no console errors, nothing loaded, nothing cut off, light and dark, wide and narrow."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.report.run import run as report
from tests.support.browser import browse, console
from tests.support.judged_runs import judged
from tests.support.report_runs import Run, again

pytestmark = pytest.mark.heavy

NAMES = ("succeeded", "cached", "rejected", "killed", "drifted")
IMAGES = {"rejected": 0, "killed": 1, "drifted": 5}

POLICY = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")
DARK = "--blink-settings=preferredColorScheme=0"
MEASURE = """<script>
  const root = document.documentElement;
  addEventListener("load", () => parent.postMessage(JSON.stringify({
    content: root.scrollWidth, window: root.clientWidth,
    images: document.images.length,
    loaded: [...document.images].filter(image => image.complete && image.naturalWidth > 0).length,
  }), "*"));
</script>"""
COLLECT = """<script>
  const sizes = [];
  addEventListener("message", event => { sizes.push(JSON.parse(event.data)); document.title = JSON.stringify(sizes); });
</script>"""
WIDE, NARROW, HEIGHT = 1200, 390, 1600


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a successful run, its cached repetition, rejected data, a killed step, and drift."""
    root = tmp_path_factory.mktemp("reports")
    succeeded, rejected, killed = Run(root / "a").all(), Run(root / "b"), Run(root / "c")
    report(succeeded.description, folder=root / "succeeded", status="succeeded")
    cached = again(succeeded)
    cached.gate("unchanged", champion="v0003")
    cached.push(decision="unchanged", reason="v0003 is already published.", champion="v0003")
    report(cached.description, folder=root / "cached", status="succeeded")
    rejected.reject()
    report(rejected.description, folder=root / "rejected", status="failed")
    killed.ingest()
    killed.write_entry("validate", "running", killed.started_at)
    report(killed.description, folder=root / "killed", status="failed")
    report(judged(root / "d", changed=True)[1], folder=root / "drifted", status="failed")
    return {name: root / name / "report.html" for name in NAMES}


def side_by_side(file: Path, page: Path, *widths: int, script: str = "") -> Path:
    """Write a page of frames that show `page` at these widths: a headless window itself is at least 500 pixels wide."""
    frames = "".join(f'<iframe src="{page.as_uri()}" width="{width}" height="{HEIGHT}"></iframe>' for width in widths)
    style = "<style>body { margin: 0; display: flex } iframe { border: 0; flex: none }</style>"
    file.write_text(f"<!doctype html><title></title>{style}{script}{frames}")
    return file


@pytest.mark.parametrize(("name", "dark"), [*((name, False) for name in NAMES), ("succeeded", True), ("drifted", True)])
def test_page_is_drawn_without_console_errors(
    chromium: str, pages: dict[str, Path], tmp_path: Path, name: str, dark: bool
) -> None:
    shot, file = tmp_path / "shot.png", side_by_side(tmp_path / "frames.html", pages[name], WIDE, NARROW)
    flags = [f"--screenshot={shot}", f"--window-size={WIDE + NARROW},{HEIGHT}", *([DARK] if dark else [])]
    done = browse(chromium, file.as_uri(), *flags)
    assert console(done) == []
    both = np.asarray(Image.open(shot).convert("L"))
    assert both.shape == (HEIGHT, WIDE + NARROW)
    for pixels in (both[:, :WIDE], both[:, WIDE:]):
        assert len(np.unique(pixels)) > 50  # text has many grey levels, a blank page has one
        assert (np.median(pixels) < 60) if dark else (np.median(pixels) > 200)
        assert pixels.std() > 10


@pytest.mark.parametrize("name", NAMES)
def test_page_fits_the_window_and_shows_its_images(chromium: str, pages: dict[str, Path], tmp_path: Path, name: str) -> None:
    # The policy of the page forbids scripts, so a copy without the policy is measured.
    copy = tmp_path / "copy.html"
    html, replaced = POLICY.subn("", pages[name].read_text())
    assert replaced == 1
    copy.write_text(html.replace("</body>", f"{MEASURE}</body>"))
    frames = side_by_side(tmp_path / "frames.html", copy, WIDE, 700, NARROW, script=COLLECT)
    done = browse(chromium, frames.as_uri(), "--dump-dom", f"--window-size=2400,{HEIGHT}", "--virtual-time-budget=5000")
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    measured = {size["window"]: size for size in json.loads(title[1])}
    assert measured.keys() == {WIDE, 700, NARROW}
    for width, size in measured.items():
        assert size["content"] <= width
        assert size["loaded"] == size["images"] == IMAGES.get(name, 14)


@pytest.fixture
def visits() -> Iterator[tuple[str, list[str]]]:
    """A server that records its requests: its URL and the requested paths."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def test_nothing_is_loaded_even_if_the_page_contains_markup(
    chromium: str, pages: dict[str, Path], tmp_path: Path, visits: tuple[str, list[str]]
) -> None:
    url, paths = visits
    markup = f'<img src="{url}/image"><script src="{url}/script"></script><script>console.error("ran")</script>'
    guarded, open_page = tmp_path / "guarded.html", tmp_path / "open.html"
    html = pages["succeeded"].read_text().replace("</body>", f"{markup}</body>")
    guarded.write_text(html)
    open_page.write_text(POLICY.sub("", html))
    refused = browse(chromium, guarded.as_uri(), f"--screenshot={tmp_path / 'a.png'}")
    assert paths == []
    assert any("Content Security Policy" in line for line in console(refused))
    assert not any('"ran"' in line for line in console(refused))
    ran = browse(
        chromium, open_page.as_uri(), f"--screenshot={tmp_path / 'b.png'}"
    )  # the control: without the policy, everything is loaded
    assert sorted(paths) == ["/image", "/script"]
    assert any('"ran"' in line for line in console(ran))
