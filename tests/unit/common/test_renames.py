"""No correctness hangs on renaming a directory or on a file lock: a mounted bucket has neither."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Each renames one file. On a mounted bucket that is a copy, which appears as a whole, and a removal.
ALLOWED = {
    ("components/common/artifacts.py", "take"),
    ("components/common/store.py", "write"),
    ("components/ingest/run.py", "refuse_unreadable"),
    ("pipeline/targets/local/run.py", "_point_latest"),  # for people: nothing reads runs/latest
}
MODULES = {"filelock", "fcntl"}
READS_LOCKS = {"components/train/devices/tpu_lock.py"}  # libtpu's lock, which it does not take


def sources() -> Iterator[tuple[str, ast.Module]]:
    for room in ("components", "pipeline"):
        for file in sorted((ROOT / room).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())


def is_rename(node: ast.AST) -> bool:
    """Return whether a call may rename: str.replace takes two arguments, Path.replace and a rename of Path take one."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    name, of_module = node.func.attr, isinstance(node.func.value, ast.Name) and node.func.value.id in ("os", "shutil")
    if name in ("rename", "renames", "move"):
        return True
    return name == "replace" and (of_module or (len(node.args) == 1 and not node.keywords))


def test_only_files_are_renamed_and_only_where_it_is_safe() -> None:
    found = {
        (file, function.name)
        for file, tree in sources()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        if any(is_rename(node) for node in ast.walk(function))
    }
    assert found == ALLOWED


def test_no_file_locks() -> None:
    found = {
        file
        for file, tree in sources()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and MODULES & {alias.name for alias in node.names})
        or (isinstance(node, ast.ImportFrom) and node.module in MODULES)
    }
    assert found == READS_LOCKS
