"""CSV and JSONL manifests as a source: labels, splits, and errors with line numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.common.errors import ConfigError, DataRejectedError
from components.ingest.config import IngestConfig
from components.ingest.run import run
from components.ingest.sources.chunks import RawImage
from components.ingest.sources.fingerprint import source_fingerprint
from tests.support.datasets.image_folder import write_digit_images
from tests.support.datasets.source_items import items_of, labels, open_images, reasons

ROWS = [
    {"path": "in/a.png", "label": "cat", "split": "train"},
    {"path": "in/b, with a comma.png", "label": "dog", "split": "eval"},
    {"path": "c.png", "label": "", "split": ""},
    {"path": "in/日本.png", "label": "ape", "split": ""},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for row in ROWS:
        (tmp_path / row["path"]).write_bytes(row["path"].encode())
    return tmp_path


def as_csv(rows: list[dict[str, Any]]) -> str:
    quoted = [f'"{row["path"]}",{row["label"]},{row["split"]}' for row in rows]
    return "\n".join(["path,label,split", *quoted]) + "\n"


def as_jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(("name", "text"), [("x.csv", as_csv(ROWS)), ("x.jsonl", as_jsonl(ROWS)), ("X.CSV", as_csv(ROWS))])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_paths_labels_and_splits(folder: Path, name: str, text: str, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(mark + text)
    reader = open_images(folder / name)
    items = items_of(reader)
    assert [(item.id, item.split, item.content) for item in items if isinstance(item, RawImage)] == [
        (row["path"], row["split"], row["path"].encode()) for row in ROWS
    ]
    assert reader.label_names == ("ape", "cat", "dog")
    assert labels(reader) == {row["path"]: row["label"] for row in ROWS}
    monkeypatch.chdir(folder)
    assert items_of(open_images(name)) == items, "paths are relative to the manifest, not to the working directory"


def test_column_order_extra_columns_and_empty_lines(folder: Path) -> None:
    (folder / "x.csv").write_text('label,width,path\r\ncat,7,"in/a.png"\r\n\r\n,8,c.png\r\n')
    assert labels(open_images(folder / "x.csv")) == {"in/a.png": "cat", "c.png": ""}
    (folder / "x.jsonl").write_text('\n{"path": "in/a.png", "label": 10, "width": 3}\n{"path": "c.png", "label": 9}\n\n')
    reader = open_images(folder / "x.jsonl")
    assert reader.label_names == ("9", "10"), "numbers are ordered by value"
    (folder / "x.csv").write_text("path\nin/a.png\n")
    assert labels(open_images(folder / "x.csv")) == {"in/a.png": ""}


def test_absolute_paths_and_paths_above_the_manifest(folder: Path) -> None:
    (folder / "lists").mkdir()
    (folder / "lists" / "x.csv").write_text(f"path\n../c.png\n{folder}/in/a.png\n")
    found = items_of(open_images(folder / "lists" / "x.csv"))
    assert [item.content for item in found if isinstance(item, RawImage)] == [b"c.png", b"in/a.png"]


def test_missing_files_are_quarantined(folder: Path) -> None:
    (folder / "x.csv").write_text("path\nnowhere.png\nc.png\nin\n")
    assert reasons(open_images(folder / "x.csv")) == {
        "nowhere.png": ("unreadable file", "No such file or directory"),
        "in": ("not a regular file", "a folder"),
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "line 1: the header has no column path; it has none"),
        ("x.csv", "in/a.png,cat\n", "line 1: the header has no column path; it has in/a.png, cat"),
        ("x.csv", "path,label\na.png\n", "line 2: 1 fields, the header has 2"),
        ("x.csv", "path,label\na.png,x\nb.png,x,y\n", "line 3: 3 fields, the header has 2"),
        ("x.csv", 'path\n"a.png\n', "line 2: unexpected end of data"),
        ("x.csv", "path,label\n,cat\n", "line 2: the path is missing"),
        ("x.csv", "path,label,split\na.png,cat,test\n", 'line 2: the split is "test"; use train, eval or leave it empty'),
        ("x.csv", "path\na.png\nb.png\na.png\n", "line 4: a.png is already on line 2"),
        ("x.csv", "path\ngs://b/a.png\n", "line 2: gs://b/a.png is a URL; paths must be relative"),
        ("x.csv", b"path\na.png\ncaf\xe9.png\n", "line 3: not UTF-8"),
        ("x.jsonl", '{"path": "a.png"}\n{"path": \n', "line 2: not JSON: Expecting value"),
        ("x.jsonl", '["a.png"]\n', "line 1: not a JSON object"),
        ("x.jsonl", '{"label": "x"}\n', "line 1: the path is missing"),
        ("x.jsonl", '{"path": ["a.png"]}\n', 'line 1: path is ["a.png"], not text'),
        ("x.jsonl", '{"path": "a.png", "label": true}\n', "line 1: label is true, not text"),
        ("x.jsonl", '{"path": "a.png", "label": 0.5}\n', "line 1: label is 0.5, not text"),
        ("x.jsonl", "[" * 100_000, "line 1: not JSON: maximum recursion depth exceeded"),
    ],
)
def test_invalid_lines_are_reported_by_number(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        open_images(tmp_path / name)
    assert f"{tmp_path}/{name}, {message}" in str(caught.value)
    assert "A line is path,label or path,label,split" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_manifests_and_patterns_of_manifests(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"The manifest .*/x\.csv cannot be read: No such file or directory"):
        open_images(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("path,label\n")
    with pytest.raises(DataRejectedError, match=r"x\.csv contains no files"):
        open_images(tmp_path / "x.csv")
    with pytest.raises(ConfigError, match=r"a pattern cannot name more than one manifest"):
        open_images(tmp_path / "*.csv")
    with pytest.raises(ValidationError, match=r'the labels of "images:x\.csv" are in its label column'):
        IngestConfig(source="images:x.csv", labels_from_folders=True)


def test_fingerprint_changes_with_the_manifest_and_its_files(folder: Path) -> None:
    def fingerprint() -> str:
        return source_fingerprint(IngestConfig(source=f"images:{folder}/x.csv"))

    (folder / "x.csv").write_text("path,label\nc.png,cat\n")
    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    (folder / "x.csv").write_text("path,label\nc.png,dog\n")
    seen.append(fingerprint())
    (folder / "c.png").write_bytes(b"longer")
    seen.append(fingerprint())
    (folder / "c.png").unlink()
    seen.append(fingerprint())
    os.utime(folder / "in/a.png", ns=(1, 1))  # not listed
    assert len(set(seen)) == 4
    assert fingerprint() == seen[-1]


def test_dataset_of_a_manifest(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "in", 60, broken=False)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "in").rglob("*.*"))
    split = dict(zip(files, ["eval" if index % 3 == 0 else "train" for index in range(60)], strict=True))
    lines = [f"{file},{Path(file).parent.name},{split[file]}" for file in files]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,split", *lines, "gone.png,1,train"]))
    summary = run(IngestConfig(source=f"images:{tmp_path}/x.csv"), out=tmp_path / "out")
    assert (summary.read, summary.train, summary.eval, summary.quarantined) == (61, 40, 20, 1)


def test_pipe_named_like_a_manifest_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(ConfigError, match=r"The manifest .*/x\.csv is a pipe\. Name a regular file\."):
        open_images(tmp_path / "x.csv")
