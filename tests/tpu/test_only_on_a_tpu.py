"""What stands between the training and a TPU runs here, but for the lines that say so, and docs/tpu.md names those."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest
import tensorflow as tf

from components.train import step
from components.train.data import on_device
from components.train.data.source import open_source
from components.train.devices import host_call
from components.train.networks import ImageShape
from components.train.saving import variables
from tests.parity.training import config_for
from tests.support.datasets.training_data import write_digits

ROOT = Path(__file__).parents[2]
MARK = "  # only on a TPU"
MODULES = (host_call, on_device, variables)


def test_the_lines_that_only_a_tpu_runs_are_those_that_the_documentation_lists() -> None:
    files = [*(ROOT / "components").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]
    marked = [
        f"`{line.removesuffix(MARK).strip()}` {file.relative_to(ROOT)}"
        for file in files
        for line in file.read_text().splitlines()
        if line.endswith(MARK)
    ]
    table = (ROOT / "docs" / "tpu.md").read_text().partition("| Line marked")[2].partition("\n\n")[0]
    listed = [" ".join(re.findall(r"^\| (`.*`) \| `(.*?)`", row)[0]) for row in table.splitlines()[2:]]
    assert sorted(listed) == sorted(marked)


@pytest.fixture
def executed() -> Iterator[set[tuple[str, int]]]:
    """Return a set to which file and number of each line of MODULES are added when it runs; functions run eagerly."""
    lines, files = set[tuple[str, int]](), {inspect.getfile(module) for module in MODULES}

    def note(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return note

    with _eagerly():
        before = sys.gettrace()
        sys.settrace(note)
        try:
            yield lines
        finally:
            sys.settrace(before)


@contextlib.contextmanager
def _eagerly() -> Iterator[None]:
    """Let functions run line by line as they are written, not as AutoGraph rewrites them."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def lines_of_functions(module: ModuleType) -> set[tuple[str, int]]:
    """Return file and number of each line that belongs to a function, and is not marked."""
    file = inspect.getfile(module)
    text = Path(file).read_text()
    lines = set[int]()
    waiting: list[CodeType] = [compile(text, file, "exec")]
    while waiting:
        code = waiting.pop()
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]
        if code.co_flags & inspect.CO_OPTIMIZED:  # a function, not a module or class, which run at import
            lines |= {line for *_, line in code.co_lines() if line and line != code.co_firstlineno}
    return {(file, line) for line in lines if not text.splitlines()[line - 1].endswith(MARK)}


def test_every_other_line_runs_here(executed: set[tuple[str, int]], tmp_path: Path) -> None:
    dataset, _ = write_digits(tmp_path)
    config = config_for(1, conditional=True)
    strategy = tf.distribute.get_strategy()
    settings = {"seed": 0, "n_critic": config.n_critic, "batch_size": config.global_batch_size}
    state = step.make_state(ImageShape(8, 1, 10), config, strategy)
    variables.load_arrays(state, variables.state_arrays(state))
    for mode in ("resident", "stream"):
        with contextlib.closing(open_source(dataset, mode=mode, **settings)) as source:
            for devices in ("cpu:1", "tpu"):
                there = config.model_copy(update={"devices": devices, "precision": "float32"})
                call = host_call.make_call(state, there, strategy, source)
                assert call(source.take(0, 1), tf.constant(0)).shape == (1, 6)
    assert host_call.make_weights_check(state, strategy)() == []
    assert len(variables.averages(state)) == len(state.generator.variables)
    assert [host_call.rounds_within(config, fitting) for fitting in (7, 100)] == [5, 20]
    wanted = set().union(*map(lines_of_functions, MODULES))
    assert len(wanted) > 60
    missed = sorted(wanted - executed)
    assert missed == [], "run them here, or mark them and list them in docs/tpu.md"
