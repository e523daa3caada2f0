"""Which lines of kfp and of the steps a run shows."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.targets.local.terminal import shown_on

LINES = """\
19:00:00.1 - INFO - Executing task \x1b[96m'train'\x1b[0m
19:00:00.1 - INFO - Streamed logs:
    [KFP Executor INFO]: --component_module_path
    » Training 100 rounds from scratch on cpu:1
    … 50/100 rounds · gap 0.1
    … 100/100 rounds · gap 0.2
    WARNING: All log messages before absl::InitializeLog()
19:00:09.1 - INFO - Task \x1b[96m'train'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
19:00:09.1 - ERROR - Task \x1b[96m'push'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_steps_and_progress_are_shown_and_everything_is_logged(terminal: bool, tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=100, highlight=False, color_system=None)
    with shown_on(console, tmp_path / "run.log"):
        for line in LINES.splitlines():  # one by one, as a step prints them: the bar is shown when the later ones come
            print(line)
        logging.info("Task ingest cache hit (key=abc); skipping execution.")
    text = shown.getvalue()
    assert "Training 100 rounds from scratch" in text
    assert "done train" in text
    assert "FAILED push" in text
    assert "cached ingest" in text
    assert "absl" not in text
    assert "KFP Executor" not in text
    assert "100/100 rounds · gap 0.2" in text
    log = (tmp_path / "run.log").read_text()
    assert "absl::InitializeLog()" in log
    assert "cache hit" in log
