"""Artifacts: complete or absent, and every later change is detected."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common import artifacts
from components.common.artifacts import (
    MANIFEST,
    Manifest,
    code_digest,
    digest_of,
    new_artifact,
    new_directory,
    read_manifest,
    write_json,
    write_text,
)
from components.common.errors import ArtifactError
from components.ingest.config import IngestConfig
from components.validate.config import ValidateConfig


def make(path: Path, content: str = "content", **files: str) -> Manifest:
    with new_artifact(path, "thing", config=IngestConfig()) as artifact:
        (artifact.path / "sub").mkdir()
        (artifact.path / "sub" / "a.txt").write_text(content)
        for name, text in files.items():
            (artifact.path / name).write_text(text)
        artifact.counts["read"] = 3
        artifact.details["size"] = 8
    return read_manifest(path)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_manifest_records_kind_config_and_inputs(tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    with new_artifact(tmp_path / "second", "other", config=ValidateConfig(), inputs={"dataset": tmp_path / "first"}):
        pass
    second = read_manifest(tmp_path / "second", "other")
    assert second.inputs == {"dataset": first.digest}
    assert second.config == ValidateConfig().model_dump(mode="json")
    assert (first.counts, first.details) == ({"read": 3}, {"size": 8})
    assert list(first.files) == ["sub/a.txt"]
    assert first.files["sub/a.txt"].bytes == len("content")


def test_the_digest_depends_on_the_content_alone(tmp_path: Path) -> None:
    first, again = make(tmp_path / "1"), make(tmp_path / "2")
    assert first.digest == again.digest
    assert len({first.digest, make(tmp_path / "3", "Content").digest, make(tmp_path / "4", b="").digest}) == 3


def test_files_that_the_writer_digests_need_not_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make(tmp_path / "plain", b="b" * 5000)
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "source" / "sub" / "a.txt").write_text("content")
    monkeypatch.setattr(artifacts, "file_sha256", pytest.fail)
    with new_artifact(tmp_path / "out", "thing", config=IngestConfig()) as artifact:
        artifact.copy(tmp_path / "source" / "sub")
        with artifact.open("b") as stream:
            stream.write(b"b" * 2000)
            stream.write(memoryview(b"b" * 3000))
    monkeypatch.undo()
    assert read_manifest(tmp_path / "out").files == expected.files
    assert read_manifest(tmp_path / "out").digest == expected.digest


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failed_writer_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    def fail() -> None:
        with new_artifact(tmp_path / "out", "thing", config=IngestConfig()) as artifact:
            (artifact.path / "a").touch()
            raise error

    with pytest.raises(type(error)):
        fail()
    assert entries(tmp_path) == []


def test_a_writer_removes_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    before = make(tmp_path / "out", left="by an earlier attempt")
    with new_directory(tmp_path / "out") as folder:
        assert entries(folder) == []
    after = make(tmp_path / "out", "new content")
    assert after.digest != before.digest
    assert list(after.files) == ["sub/a.txt"]
    assert entries(tmp_path) == ["out"]


def test_the_manifest_is_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        artifacts.remove_artifact(tmp_path / "out")
    with pytest.raises(ArtifactError, match="it is not a finished artifact"):
        read_manifest(tmp_path / "out")


def test_a_killed_writer_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom components.common.artifacts import new_artifact\n"
        "from components.ingest.config import IngestConfig\n"
        f"with new_artifact(Path({str(tmp_path / 'out')!r}), 'thing', config=IngestConfig()) as artifact:\n"
        "    (artifact.path / 'a').touch()\n    print('half-written', flush=True)\n    input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half-written\n"
        assert (tmp_path / "out" / "a").exists()
        process.kill()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: it is not a finished artifact"):
        read_manifest(tmp_path / "out")
    make(tmp_path / "out")


@settings(max_examples=40)
@given(st.integers(0, 6), st.integers(0, 7))
def test_every_flipped_bit_is_detected(byte: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        make(path)
        content = bytearray((path / "sub" / "a.txt").read_bytes())
        content[byte] ^= 1 << bit
        (path / "sub" / "a.txt").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"is damaged: sub/a\.txt does not match its digest"):
            read_manifest(path)
        read_manifest(path, verify=False)


def test_a_missing_file_or_an_invalid_manifest_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "sub" / "a.txt").unlink()
    with pytest.raises(ArtifactError, match=r"sub/a\.txt is missing"):
        read_manifest(tmp_path / "out")
    for text in ("", "{", "[]", '{"kind": "thing"}'):
        (tmp_path / "out" / MANIFEST).write_text(text)
        with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read") as caught:
            read_manifest(tmp_path / "out")
        assert "\n" not in str(caught.value)


def test_another_kind_or_schema_version_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"is a thing, a dataset is needed\. Name the folder of a dataset"):
        read_manifest(tmp_path / "out", "dataset")
    content = json.loads((tmp_path / "out" / MANIFEST).read_text())
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ArtifactError, match="has schema version 99, this program reads 1"):
        read_manifest(tmp_path / "out")


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # not even root can write below a file
    for write in (lambda path: make(path), lambda path: write_text(path, "x")):
        with pytest.raises(ArtifactError, match=r"Cannot write .*out: (Not a directory|File exists)\. Free space") as caught:
            write(tmp_path / "file" / "out")
        assert caught.value.exit_code == 1


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "x.txt", "old")
    write_text(tmp_path / "new" / "x.txt", "ne\u00fc")
    assert (tmp_path / "new" / "x.txt").read_text() == "neü"
    with pytest.raises(ArtifactError):
        write_text(tmp_path / "new", "a folder is in the way")
    assert entries(tmp_path) == ["new"]
    assert entries(tmp_path / "new") == ["x.txt"]


def test_nan_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert entries(tmp_path) == []


def test_digest_of_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})


def test_components_have_different_code_digests() -> None:
    digests = [code_digest(name) for name in ("ingest", "validate")]
    assert len(set(digests)) == 2
    assert digests[0] == code_digest("ingest")


def test_an_artifact_replaces_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    make(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208


def test_a_file_is_moved_into_an_artifact_also_from_another_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    def rename(path: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with new_artifact(tmp_path / "out", "thing", config=IngestConfig()) as artifact:
        artifact.take(tmp_path / "a")
        monkeypatch.setattr(Path, "rename", rename)
        artifact.take(tmp_path / "b")
    assert {name: entry.bytes for name, entry in read_manifest(tmp_path / "out").files.items()} == {"a": 1, "b": 1}
    assert entries(tmp_path) == ["out"]


def test_an_artifact_that_cannot_be_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out")

    def fail(path: Path) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(artifacts.shutil, "rmtree", fail)
    with pytest.raises(ArtifactError, match=r"^Cannot remove \S+/out: Transport endpoint is not connected\. Make its folder"):
        artifacts.remove_artifact(tmp_path / "out")
