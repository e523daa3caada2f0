"""Local files as a source: each listed file is read whole or quarantined; chunks are balanced and small."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, DataRejectedError
from components.dataset.records import NO_LABEL
from components.ingest.sources import chunks, files, listing
from components.ingest.sources.chunks import (
    BYTES_PER_CHUNK,
    IMAGES_PER_CHUNK,
    CannotReadError,
    ChunkPacker,
    RawImage,
    Unread,
    listed_images,
)
from components.ingest.sources.readers import read_chunk
from tests.support.datasets.source_items import contents, items_of, labels, open_images, reasons


def test_files_are_read_whole_in_the_order_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "a.png", "b.png", ".hidden.png"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    found = contents(open_images(tmp_path))
    assert list(found) == ["a.png", "a/1.png", "b.png"]
    assert all(content == name.encode() * 1000 for name, content in found.items())
    assert contents(open_images(f"file://{tmp_path}")) == found
    assert contents(open_images(tmp_path / "a.png")) == {"a.png": b"a.png" * 1000}


def test_labels_from_folders(tmp_path: Path) -> None:
    for name in ("10/x", "9/x", "9/deep/y", "root"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    reader = open_images(tmp_path, labels_from_folders=True)
    assert labels(reader) == {"10/x": "10", "9/x": "9", "9/deep/y": "deep", "root": ""}
    assert reader.label_names == ("10", "9", "deep")
    assert open_images(f"{tmp_path}/[0-9]*/x", labels_from_folders=True).label_names == ("9", "10"), "ordered by value"
    assert open_images(tmp_path).label_names == ()


def test_irregular_files_are_quarantined_and_never_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.png"))
    (tmp_path / "null.png").symlink_to("/dev/null")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "good.png").write_bytes(b"good")
    assert reasons(open_images(tmp_path)) == {
        "pipe.png": ("not a regular file", "a pipe"),
        "socket.png": ("not a regular file", "a socket"),
        "null.png": ("not a regular file", "a device"),
        "zero.png": ("not a regular file", "a device"),
        "loop.png": ("unreadable file", "Too many levels of symbolic links"),
        "gone.png": ("unreadable file", "No such file or directory"),
    }


def test_file_replaced_by_a_pipe_after_it_was_listed_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    reader = open_images(tmp_path)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    items: list[Any] = []
    reading = threading.Thread(target=lambda: items.extend(items_of(reader)), daemon=True)
    reading.start()
    reading.join(10)
    assert items == [Unread("a.png", "not a regular file", "a pipe")]


def test_file_without_permission_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.png").write_bytes(b"x")
    (tmp_path / "theirs.png").write_bytes(b"x")
    (tmp_path / "theirs.png").chmod(0)
    if os.geteuid() == 0:  # root can read everything: simulate the error
        opened = os.open

        def refusing(path: Any, *rest: Any) -> int:
            if os.fsencode(path).endswith(b"theirs.png"):
                raise PermissionError(13, os.strerror(13))
            return opened(path, *rest)

        monkeypatch.setattr(files.os, "open", refusing)
    assert reasons(open_images(tmp_path)) == {"theirs.png": ("unreadable file", "Permission denied")}


def test_folder_that_cannot_be_listed_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inside").mkdir()
    listed = os.scandir

    def refusing(path: Any) -> Any:
        if os.fsencode(path).rstrip(b"/").endswith(b"inside"):
            raise PermissionError(13, os.strerror(13))
        return listed(path)

    monkeypatch.setattr(listing.os, "scandir", refusing)
    with pytest.raises(ConfigError, match=rf"{tmp_path}/inside cannot be listed: Permission denied\. Check that it exists"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.unlink(), ("unreadable file", "No such file or directory")),
        (lambda file: file.write_bytes(b"longer"), ("changed while reading", "3 bytes when listed, 6 bytes read")),
        (lambda file: file.write_bytes(b""), ("changed while reading", "3 bytes when listed, 0 bytes read")),
        (lambda file: os.utime(file, ns=(1, 1)), ("changed while reading", "3 bytes when listed, 3 bytes read")),
        (lambda file: (file.unlink(), file.mkdir()), ("not a regular file", "a folder")),
    ],
)
def test_file_that_changes_after_listing(tmp_path: Path, change: Callable[[Path], Any], expected: Any) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    reader = open_images(tmp_path)
    change(tmp_path / "a.png")
    assert reasons(reader) == {"a.png": expected}


def test_file_that_is_written_to_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    reader = open_images(tmp_path)
    read = os.read

    def growing(descriptor: int, count: int) -> bytes:
        content = read(descriptor, count)
        with (tmp_path / "a.png").open("ab") as end:
            end.write(b"more")
        return content

    monkeypatch.setattr(files.os, "read", growing)
    assert reasons(reader) == {"a.png": ("changed while reading", "3 bytes when listed, 3 bytes read")}


def test_huge_file_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(b"head of it")
        file.truncate(2**31)
    for index in range(20):
        (tmp_path / f"{index}.png").write_bytes(b"x")
    reader = open_images(tmp_path)
    tracemalloc.start()
    items = items_of(reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    (unread,) = (item for item in items if isinstance(item, Unread))
    assert unread[:3] == ("huge.png", "too large", "2,147,483,648 bytes, ingest.max_bytes = 268,435,456")
    assert unread.head == b"head of it".ljust(4096, b"\0")


def test_a_file_of_exactly_max_bytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "at.png").write_bytes(b"x" * 100)
    (tmp_path / "over.png").write_bytes(b"x" * 101)
    assert reasons(open_images(tmp_path, max_bytes=100)) == {"over.png": ("too large", "101 bytes, ingest.max_bytes = 100")}


def test_names_in_any_encoding(tmp_path: Path) -> None:
    names = [b"caf\xe9.png", "日本.png".encode(), b"line\nbreak.png", b"\xff\xfe", b"quote'\".png", b"*[x]?.png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    found = contents(open_images(tmp_path))
    assert found == {name.decode(errors="backslashreplace"): name for name in names}
    assert list(contents(open_images(f"{tmp_path}/caf?.png"))) == [r"caf\xe9.png"], "? matches one character, UTF-8 or not"
    assert list(contents(open_images(f"{tmp_path}/??.png"))) == ["日本.png"]
    assert list(contents(open_images(f"{tmp_path}/*[x]?.png"))) == ["*[x]?.png"], "a name that exists is not a pattern"


def test_circular_links_end(tmp_path: Path) -> None:
    for folder in ("a/b", "c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.png").write_bytes(b"x")
        for name in ("up", "down", "again"):
            (tmp_path / folder / name).symlink_to(tmp_path)
    assert len(items_of(open_images(tmp_path))) == 2
    assert len(items_of(open_images(f"{tmp_path}/**/*.png"))) == 2
    assert len(items_of(open_images(f"{tmp_path}/**/up/**/x.png"))) == 2


def test_folders_nested_deeper_than_the_recursion_limit(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    with os.fdopen(os.open("x.png", os.O_WRONLY | os.O_CREAT, dir_fd=folder), "wb") as file:
        file.write(b"deep")
    os.close(folder)
    try:
        assert list(contents(open_images(tmp_path)).values()) == [b"deep"]
    finally:  # pytest recurses and could not remove it
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_chunks_are_balanced_by_number_and_by_bytes(tmp_path: Path) -> None:
    for index in range(600):
        (tmp_path / f"small{index:03d}").write_bytes(b"x")
    for index in range(9):
        with (tmp_path / f"big{index}").open("wb") as file:
            file.truncate(12 * 2**20)
    sizes = [[image.numbers[0] for image in listed_images(*chunk[3:])] for chunk in open_images(tmp_path).chunks]
    assert [len(part) for part in sizes] == [3, 3, 3, 256, 256, 88]
    assert max(sum(part) for part in sizes) <= BYTES_PER_CHUNK + 12 * 2**20
    again = open_images(tmp_path)
    assert again.chunks == open_images(tmp_path).chunks


def test_listing_takes_little_memory() -> None:
    class CameraFolder:
        """A folder of 200,000 names like those of a camera."""

        def identity(self, below: bytes) -> int:
            return 0

        def names(self, below: bytes) -> list[bytes]:
            return [b"IMG_2026_%08d.jpeg" % (index * 7919 % 200_000) for index in range(200_000)]

        def status(self, name: bytes) -> tuple[int, int]:
            return 100_000 + hash(name) % 100_000, 1_790_000_000_000_000_000 + hash(name) % 10**15

    tracemalloc.start()
    packer = ChunkPacker("files", b"/data", 2**28)
    for file in listing.walk(CameraFolder()):
        packer.add(file.name, file.size, file[1:], "label")
    reader = packer.reader()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.total == 200_000
    assert kept / reader.total < 40, "bytes a file, in the chunks"
    assert peak / reader.total < 150, "bytes a file, while listing"


def test_chunks_hold_plain_values_only(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (chunk,) = open_images(tmp_path).chunks
    assert {type(value) for value in chunk} <= {str, bytes, int}
    assert chunks.NO_LABEL == NO_LABEL


def test_chunks_round_trip() -> None:
    packer = ChunkPacker("kind", "root")
    added = [(f"n{index}".encode(), (index, -1, 2**62), f"L{index % 3}" if index % 4 else "", ("", "train", "eval")[index % 3])
             for index in range(IMAGES_PER_CHUNK * 2 + 1)]  # fmt: skip
    for name, numbers, label, split in added:
        packer.add(name, 0, numbers, label, split)
    reader = packer.reader()
    assert [chunk[:2] for chunk in reader.chunks] == [("kind", "root")] * 3
    found = [image for chunk in reader.chunks for image in listed_images(*chunk[2:])]
    names = dict(enumerate(reader.label_names)) | {NO_LABEL: ""}
    assert [(row.name, row.numbers, names[row.label], row.split) for row in found] == added
    assert Counter(row.label for row in found).keys() == {-1, 0, 1, 2}


def test_empty_folder_and_pattern_without_matches(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    with pytest.raises(DataRejectedError, match=rf"{tmp_path} contains no files except hidden ones\. Name a source of"):
        open_images(tmp_path)
    with pytest.raises(ConfigError, match=r"is not a folder, and no file matches it"):
        open_images(f"{tmp_path}/*.png")


def test_reading_a_chunk_never_raises_the_error_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    reader = open_images(tmp_path)
    (tmp_path / "a").unlink()
    (item,) = read_chunk(reader.chunks[0])
    assert not isinstance(item, RawImage)
    with pytest.raises(CannotReadError):
        files.read_local_file(bytes(tmp_path / "a"), 1, 1, 1)
