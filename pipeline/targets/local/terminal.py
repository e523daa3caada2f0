"""The output of a local run: a line for each finished step, progress lines and a bar; everything else goes to the log."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from components.common.progress import SAY, TICK

ANSI = re.compile(r"\x1b\[[0-9;]*m")
# The lines of kfp.local 2.17.0 about the progress of the pipeline.
TASK_STARTS = re.compile(r"Executing task '([\w-]+)'")
TASK_CACHED = re.compile(r"Task ([\w-]+) cache hit")
TASK_ENDS = re.compile(r"Task '([\w-]+)' finished with status (\w+)")
TICKED = re.compile(rf"{TICK}(\d+)/(\d+) (.*)")
PLAIN_TICK_SECONDS = 10.0


class Terminal(io.TextIOBase):
    """A replacement for stdout: whole lines go to a log file, and the relevant ones to a console."""

    def __init__(self, console: Console, log: TextIO) -> None:
        self.console, self.log = console, log
        self.rest = ""
        self.started = time.monotonic()
        self.shown_tick = 0.0
        self.bar: Progress | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Buffer text, and pass on each complete line."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.log.write(f"{line}\n")
            self._show(ANSI.sub("", line).strip())
        self.log.flush()
        return len(text)

    def remove_bar(self) -> None:
        """Remove the progress bar."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _show(self, line: str) -> None:
        """Show one line of kfp or of a step, if it is relevant."""
        if match := TASK_CACHED.search(line):
            self._finish(match[1], "cached", "nothing to do")
        elif TASK_STARTS.search(line):
            self.started = time.monotonic()
        elif match := TASK_ENDS.search(line):
            self._finish(match[1], "done" if match[2] == "SUCCESS" else "FAILED", f"{time.monotonic() - self.started:.1f} s")
        elif match := TICKED.match(line):
            self._tick(int(match[1]), int(match[2]), match[3])
        elif line.startswith(SAY):
            self.console.print(f"    {line.removeprefix(SAY)}", style="dim", markup=False, highlight=False)

    def _finish(self, step: str, state: str, detail: str) -> None:
        self.remove_bar()
        style = {"done": "green", "cached": "cyan", "FAILED": "bold red"}[state]
        self.console.print(f"[{style}]{state:>7}[/] [bold]{step:<9}[/] {detail}", highlight=False)

    def _tick(self, done: int, total: int, text: str) -> None:
        if self.console.is_terminal and done < total:
            self._move_bar(done, total, text)
            return
        self.remove_bar()
        if done == total or time.monotonic() - self.shown_tick >= PLAIN_TICK_SECONDS:
            self.shown_tick = time.monotonic()
            self.console.print(f"    {done}/{total} {text}", markup=False, highlight=False)

    def _move_bar(self, done: int, total: int, text: str) -> None:
        if self.bar is None:
            columns = TextColumn("   "), BarColumn(24), TextColumn("{task.completed}/{task.total} {task.description}")
            # rich must not replace stdout, which is this object.
            self.bar = Progress(*columns, console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False)
            self.bar.add_task(text, total=total)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=done, total=total, description=text)


@contextlib.contextmanager
def shown_on(console: Console, log_file: Path) -> Iterator[None]:
    """Write what is printed in this context to `log_file`, and the relevant lines of it to `console`."""
    root = logging.getLogger()
    level = root.level
    with log_file.open("w") as log, contextlib.redirect_stdout(Terminal(console, log)) as terminal:
        # kfp.local logs cache hits with the root logger, not with the handler that it sets for tasks.
        handler = logging.StreamHandler(terminal)
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            terminal.remove_bar()
