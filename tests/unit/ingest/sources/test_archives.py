"""Archives as a source: archives of the standard library are read back, nothing is unpacked, and bombs are harmless."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, DataRejectedError, PipelineError
from components.ingest.config import IngestConfig
from components.ingest.run import run
from components.ingest.sources.chunks import RawImage
from components.ingest.sources.fingerprint import source_fingerprint
from tests.support.datasets.image_folder import write_digit_images
from tests.support.datasets.source_items import contents, items_of, labels, open_images, reasons

KINDS = (".tar", ".tar.gz", ".tgz", ".zip", ".ZIP")
FILES = {
    "a/1.png": b"one" * 1000,
    "a/2.png": b"",
    "b/" + "long" * 60 + ".jpg": bytes(range(256)) * 9,
    "b/日本.png": b"kanji",
    "root.png": b"r",
}


def write_archive(file: Path, content: dict[str, bytes], **how: Any) -> Path:
    """Write an archive with the standard library; the name of the file gives its kind."""
    if file.suffix.lower() == ".zip":
        with zipfile.ZipFile(file, "w", how.get("compression", zipfile.ZIP_DEFLATED)) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return file
    with tarfile.open(file, "w" if file.suffix == ".tar" else "w:gz", **how) as archive:
        for name, data in content.items():
            add(archive, name, data)
    return file


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("kind", KINDS)
def test_archive_reads_like_a_folder_of_its_files(tmp_path: Path, kind: str) -> None:
    file = write_archive(tmp_path / f"x{kind}", {"a/": b"", ".hidden": b"h", "__MACOSX/._1.png": b"m", **FILES})
    reader = open_images(file, labels_from_folders=True)
    assert contents(reader) == FILES
    assert reader.label_names == ("a", "b")
    assert labels(reader)["b/日本.png"] == "b"
    assert labels(reader)["root.png"] == ""
    assert list(contents(reader)) == list(FILES), "in the order of the archive"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_tar_formats(tmp_path: Path, form: int) -> None:
    names = ["x" * 99 + "/" + "y" * 99, "caf\udce9.png", "plain"] + (["z" * 300] if form != tarfile.USTAR_FORMAT else [])
    how: dict[str, Any] = {"format": form, "encoding": "utf-8", "errors": "surrogateescape"}
    if form == tarfile.PAX_FORMAT:
        how["pax_headers"] = {"comment": "of the whole archive"}
    file = write_archive(tmp_path / "x.tar", {name: os.fsencode(name) for name in names}, **how)
    expected = {os.fsencode(name).decode(errors="backslashreplace"): os.fsencode(name) for name in names}
    assert contents(open_images(file)) == expected


def test_archive_of_gnu_tar(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(300):
        (folder / f"{index:03d}.png").write_bytes(random.Random(index).randbytes(index * 7))
    (folder / "hard.png").hardlink_to(folder / "007.png")
    with (folder / "holes.png").open("wb") as file:
        file.truncate(10**6)
        file.seek(5 * 10**5)
        file.write(b"data")
    subprocess.run(["tar", "-cSf", "x.tar", "--sort=name", "-C", "in", "."], cwd=tmp_path, check=True)
    items = {item.id: item for item in items_of(open_images(tmp_path / "x.tar"))}
    assert {id for id, item in items.items() if isinstance(item, RawImage)} == {f"{index:03d}.png" for index in range(300)}
    assert items["holes.png"][1:3] == ("unsupported archive member", "a file with holes (sparse)")
    assert items["hard.png"][1:3] == ("link", "links in archives are not followed")


@pytest.mark.parametrize("kind", [".tar", ".zip"])
def test_members_are_in_balanced_chunks_that_can_be_read_in_any_order(tmp_path: Path, kind: str) -> None:
    content = {f"{index:04d}.png": random.Random(index).randbytes(index) for index in range(700)}
    reader = open_images(write_archive(tmp_path / f"x{kind}", content))
    assert len(reader.chunks) == 3
    backwards = reader._replace(chunks=reader.chunks[::-1])
    assert contents(backwards) == content


def test_tar_gz_is_a_single_chunk_and_a_message_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = open_images(write_archive(tmp_path / "x.tar.gz", {f"{index}": b"x" for index in range(700)}))
    assert len(reader.chunks) == 1
    assert "x.tar.gz is read by one worker; a .zip or .tar can be read by all workers" in "".join(capsys.readouterr())


UNSAFE = ("../up.png", "a/../../up.png", "/etc/passwd", "C:\\x.png", "..\\up.png", "\\\\host\\x.png", "a/..")


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_unsafe_names_are_quarantined(tmp_path: Path, kind: str) -> None:
    before = set(tmp_path.parent.rglob("*"))
    file = write_archive(tmp_path / f"x{kind}", {**dict.fromkeys(UNSAFE, b"x"), "fine..png": b"fine", "a/./b.png": b"b"})
    found = reasons(open_images(file))
    assert found == dict.fromkeys(UNSAFE, ("unsafe name", "it would lead out of the archive"))
    assert set(tmp_path.parent.rglob("*")) - before == {file}, "nothing is unpacked"


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: str) -> None:
    with tarfile.open(tmp_path / f"x.{kind}", f"w:{kind[4:]}") as archive:
        add(archive, "symbolic.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "hard.png", type=tarfile.LNKTYPE, linkname="../../secret")
        add(archive, "device.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        add(archive, "pipe.png", type=tarfile.FIFOTYPE)
        add(archive, "folder.png", type=tarfile.DIRTYPE)
        add(archive, "good.png", b"good")
    assert reasons(open_images(tmp_path / f"x.{kind}")) == {
        "symbolic.png": ("link", "links in archives are not followed"),
        "hard.png": ("link", "links in archives are not followed"),
        "device.png": ("not a regular file", "a pipe or device"),
        "pipe.png": ("not a regular file", "a pipe or device"),
    }


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert reasons(open_images(tmp_path / "x.zip")) == {"link.png": ("link", "links in archives are not followed")}


def test_zip_names_in_any_encoding(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "x.zip", {"12345.png": b"x", "日本.png": b"y"})
    raw = file.read_bytes()
    assert raw.count(b"12345.png") == 2
    file.write_bytes(raw.replace(b"12345.png", b"caf\xe9\\.png"))
    assert contents(open_images(file)) == {r"caf\xe9\.png": b"x", "日本.png": b"y"}


@pytest.mark.parametrize("kind", [".tar", ".zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_equal_names_are_all_read(tmp_path: Path, kind: str) -> None:
    file = write_archive(tmp_path / f"x{kind}", {"a.png": b"1", "./a.png": b"2", ".//a.png": b"3"})
    assert contents(open_images(file)) == {"a.png": b"1", "a.png#2": b"2", "a.png#3": b"3"}


def test_archive_inside_an_archive_is_not_opened(tmp_path: Path) -> None:
    inner = write_archive(tmp_path / "inner.zip", {"a.png": b"x"}).read_bytes()
    assert contents(open_images(write_archive(tmp_path / "x.tar", {"inner.zip": inner}))) == {"inner.zip": inner}


def test_folder_named_like_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x.zip").mkdir()
    (tmp_path / "x.zip" / "a.png").write_bytes(b"x")
    assert contents(open_images(tmp_path / "x.zip")) == {"a.png": b"x"}


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_member_over_max_bytes_is_not_read(tmp_path: Path, kind: str) -> None:
    file = write_archive(tmp_path / f"x{kind}", {"big.png": os.urandom(3000), "next.png": b"x" * 1000})
    assert reasons(open_images(file, max_bytes=1000)) == {"big.png": ("too large", "3,000 bytes, ingest.max_bytes = 1,000")}


def test_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(100 * 2**20))
        archive.writestr("blank.bmp", bytes(10**6))
    reader = open_images(tmp_path / "x.zip")
    tracemalloc.start()
    found = reasons(reader)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
    assert found == {"bomb.png": ("unpacks too much", "1,028 times its packed size, 200 are allowed")}


def test_zip_with_a_false_size_yields_no_more_bytes_than_it_declares(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "x.zip", {"a.png": bytes(50 * 2**20)})
    raw = bytearray(file.read_bytes())
    entry = raw.rfind(b"PK\1\2")
    raw[entry + 24 : entry + 28] = struct.pack("<L", 1000)
    file.write_bytes(raw)
    reader = open_images(file)
    tracemalloc.start()
    assert reasons(reader) == {"a.png": ("damaged archive member", "another size or checksum than told")}
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_overlapping_zip_members_are_quarantined(tmp_path: Path) -> None:
    content = {"a.png": b"a" * 500, "b.png": b"b" * 500, "c.png": b"c"}
    file = write_archive(tmp_path / "x.zip", content, compression=zipfile.ZIP_STORED)
    raw = file.read_bytes()
    first = raw.index(b"PK\1\2")
    second = raw.index(b"PK\1\2", first + 1)
    same = raw[:second] + raw[second:].replace(struct.pack("<L", raw.index(b"PK\3\4", 4)), struct.pack("<L", 0), 1)
    file.write_bytes(same)
    overlap = ("overlapping members", "it shares bytes with another member")
    assert reasons(open_images(file)) == {"a.png": overlap, "b.png": overlap}
    longer = bytearray(raw)
    longer[first + 20 : first + 28] = struct.pack("<2L", 600, 600)
    file.write_bytes(longer)
    assert reasons(open_images(file)) == {"a.png": overlap}


def test_encrypted_member_and_unknown_compression_are_quarantined(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "x.zip", {"secret.png": b"s", "good.png": b"g"})
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    file.write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", b"x" * 1000)
    assert reasons(open_images(file)) == {"secret.png": ("encrypted", "only the owner of the password can read it")}
    found = {"a.png": ("unsupported compression", "method 14 of zip, 0 and 8 can be read")}
    assert reasons(open_images(tmp_path / "y.zip")) == found


def test_damaged_zip_member_is_quarantined(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "x.zip", {"a.png": os.urandom(5000), "b.png": b"b"})
    raw = bytearray(file.read_bytes())
    raw[3000] ^= 1
    file.write_bytes(raw)
    (found,) = reasons(open_images(file)).items()
    assert found[0] == "a.png"
    assert found[1][0] == "damaged archive member"


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (34, b"\3\0", "it is one part of several"),
        (42, b"\xff\xff\xff\xff", "impossible sizes"),
        (0, b"XX", "its directory does not hold the 1 members that were written"),
        (28, b"\xff\xff", "its directory does not hold the 1 members that were written"),
    ],
)
def test_zip_with_an_unusable_directory_is_refused(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    file = write_archive(tmp_path / "x.zip", {"日本.png": b"x"})
    raw = bytearray(file.read_bytes())
    start = raw.rfind(b"PK\1\2") + offset
    raw[start : start + len(value)] = value
    if offset == 42:
        raw[raw.rfind(b"PK\1\2") + 30] = 12  # a zip64 field with an offset of 2**63
        raw[raw.rfind(b"PK\5\6") : raw.rfind(b"PK\5\6")] = struct.pack("<2HQ", 1, 8, 2**63)
        raw[-10] += 12
    file.write_bytes(raw)
    with pytest.raises(DataRejectedError, match=rf"x\.zip is damaged: .*{message}"):
        open_images(file)


def test_zip_whose_directory_hides_members_is_refused(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "x.zip", {f"{index}.png": b"x" for index in range(5)})
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"PK\1\2") + 33] = 255  # the first member's comment now covers the entries of the others
    file.write_bytes(raw)
    assert len(zipfile.ZipFile(file).namelist()) == 1
    with pytest.raises(DataRejectedError, match=r"x\.zip is damaged: its directory does not hold the 5 members"):
        open_images(file)


def test_zip_after_a_program_and_with_a_comment(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "x.zip", FILES)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"comment" * 1000
    file.write_bytes(b"#!/bin/sh\nexit\n" + file.read_bytes())
    assert contents(open_images(file)) == FILES


def test_listing_a_zip_takes_a_fraction_of_the_memory_of_zipfile(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(20_000):
            archive.writestr(zipfile.ZipInfo(f"folder/{index}.png"), b"")

    def peak(work: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(lambda: open_images(file)) < 20_000 * 250 < 0.5 * peak(lambda: zipfile.ZipFile(file).close())


def test_zip_name_that_is_not_utf8(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "x.zip", {"日本.png": b"x"})
    file.write_bytes(file.read_bytes().replace("日".encode(), b"\xff\xfe\xfd"))
    assert contents(open_images(file)) == {"\\xff\\xfe\\xfd本.png": b"x"}


def test_zip_with_64_bit_fields(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, archive.open("a.png", "w", force_zip64=True) as member:
        member.write(b"x")
    raw = bytearray((tmp_path / "x.zip").read_bytes())
    entry, end = raw.index(b"PK\1\2"), raw.index(b"PK\5\6")
    wide = struct.pack("<2H2Q", 1, 16, 1, 1)
    raw[entry + 20 : entry + 28] = b"\xff" * 8
    raw[entry + 30 : entry + 32] = struct.pack("<H", len(wide))
    raw[end + 12 : end + 16] = struct.pack("<L", end - entry + len(wide))
    raw[entry + 46 + len("a.png") : end] = wide
    (tmp_path / "x.zip").write_bytes(raw)
    assert contents(open_images(tmp_path / "x.zip")) == {"a.png": b"x"}


def test_zip_with_more_than_65535_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for index in range(65_600):
            archive.writestr(zipfile.ZipInfo(f"{index}"), b"")
    assert open_images(tmp_path / "x.zip").total == 65_600


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_truncated_archive_is_refused_as_a_whole(tmp_path: Path, kind: str) -> None:
    file = write_archive(tmp_path / f"x{kind}", {f"{index}.png": os.urandom(3000) for index in range(5)})
    whole = file.read_bytes()
    for length in (0, 10, 600, 5000, len(whole) // 2, len(whole.rstrip(b"\0")) - 100):
        file.write_bytes(whole[:length])
        with pytest.raises(DataRejectedError, match=rf"x{kind} is damaged: .*\. Create or download it again: images could be"):
            open_images(file)


def test_tar_truncated_between_members_is_refused(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "x.tar", {"a.png": b"a" * 512, "b.png": b"b"})
    file.write_bytes(file.read_bytes()[:1024])
    with pytest.raises(DataRejectedError, match=r"x\.tar is damaged: it ends at byte 1,024 without an end mark"):
        open_images(file)


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_files_that_are_not_archives(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"x{kind}"
    file.write_bytes(b"This is a text. " * 100)
    with pytest.raises(DataRejectedError, match=r"is damaged: (it is not a tar archive|it is not a zip archive|Not a gzipped)"):
        open_images(file)
    file.unlink()
    with pytest.raises(ConfigError, match=rf"x{kind} cannot be read: No such file or directory"):
        open_images(file)
    os.mkfifo(file)
    with pytest.raises(ConfigError, match=rf"x{kind} is a pipe, not an archive"):
        open_images(file)


def test_unsupported_archive_pattern_of_archives_and_empty_archive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"this kind of archive is not supported\. Use \.tar, \.tar\.gz, \.tgz, \.zip"):
        open_images(tmp_path / "x.tar.xz")
    with pytest.raises(ConfigError, match=r"a pattern cannot name more than one archive\. Name one archive\."):
        open_images(tmp_path / "*.tar")
    with pytest.raises(DataRejectedError, match=r"x\.zip contains no files except hidden ones\. Name a source of images"):
        open_images(write_archive(tmp_path / "x.zip", {}))


def test_tar_gz_bomb_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("bomb.png")
        member.size = 10**12
        archive.addfile(member)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(stream.getvalue() + bytes(2**20)))
    with pytest.raises(DataRejectedError, match=r"unpacks to at least 1,000,000,\d+,\d+, more than the allowed ratio of 200"):
        open_images(tmp_path / "x.tar.gz")


def header(**fields: bytes) -> bytes:
    """Return a tar header with fields of any bytes and a correct checksum."""
    block = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
    for name, value in fields.items():
        start = {"size": 124, "type": 156}[name]
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block[:512])


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (header(size=b"\xff" * 12), "it is not a tar archive"),  # -1: tarfile could loop for ever
        (header(size=b"\x80" + b"\xff" * 11), r"a member ends at byte 309,\d+"),
        (header(size=b"77777777777\0", type=b"x"), r"a member ends at byte 8,589,\d+"),
        (header(size=b"00000000010\0", type=b"x") + b"99 a=b\n".ljust(512, b"\0"), "invalid attributes at byte 512"),
        (header(size=b"00000000010\0", type=b"x") + b"0 a=b\n".ljust(512, b"\0"), "invalid attributes at byte 512"),
        (header(size=b"%011o\0" % 2**20, type=b"x") + b"1" * 2**20, "invalid number in the header"),  # hours in tarfile
        (header() + header(size=b"not octal!!!"), "invalid number in the header at byte 512"),  # tarfile ends in silence
        (header(size=b"not octal!!!"), "it is not a tar archive"),
    ],
)
def test_crafted_tar_headers_are_refused(tmp_path: Path, first: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(first + bytes(2048))
    with pytest.raises(DataRejectedError, match=message):
        open_images(tmp_path / "x.tar")


def test_name_with_nul_bytes(tmp_path: Path) -> None:
    attributes = b"14 path=a\0b\0c\n"
    first = header(size=b"%011o\0" % len(attributes), type=b"x") + attributes.ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(first + header() + header() + bytes(1024))
    assert [item.id for item in items_of(open_images(tmp_path / "x.tar"))] == ["a?b?c", "a.png"]


def test_name_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(header(size=b"10000000000\0", type=b"L"))
        file.truncate(2**30 + 2048)
    with pytest.raises(DataRejectedError, match=r"a name or attributes of 1,073,741,824 bytes"):
        open_images(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_flipped_bytes_raise_only_our_errors_and_lose_no_image(tmp_path: Path, kind: str) -> None:
    file = write_archive(tmp_path / f"x{kind}", {f"{index}.png": b"%d" % index * 200 for index in range(5)})
    whole, dice = file.read_bytes(), random.Random(3)
    opened = 0
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            raw[dice.randrange(len(raw))] = dice.randrange(256)
        file.write_bytes(raw)
        try:
            reader = open_images(file)
        except PipelineError:
            continue
        assert len(items_of(reader)) == reader.total
        opened += 1
    assert opened > 0


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_archive_that_changes_after_listing(tmp_path: Path, kind: str) -> None:
    file = write_archive(tmp_path / f"x{kind}", {"a.png": b"a", "b.png": b"b"})
    reader, size = open_images(file), file.stat().st_size
    with file.open("ab") as end:
        end.write(b"more")
    detail = f"{size:,} bytes when listed, {size + 4:,} bytes read"
    assert reasons(reader) == dict.fromkeys(("a.png", "b.png"), ("changed while reading", detail))
    file.unlink()
    assert reasons(reader)["a.png"] == ("unreadable file", f"{file} cannot be read: No such file or directory.")


def test_tar_gz_that_fails_while_reading_loses_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_archive(tmp_path / "x.tar.gz", {f"{index}.png": os.urandom(2**17) for index in range(4)})
    reader = open_images(file)
    read, calls = gzip.GzipFile.read, []

    def breaking(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        calls.append(size)
        if len(calls) > 2:
            raise zlib.error("Error -3 while decompressing data")
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", breaking)
    found = reasons(reader)
    assert set(found) == {"2.png", "3.png"}
    assert set(found.values()) == {("damaged archive member", "Error -3 while decompressing data")}


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_fingerprint_changes_with_the_archive_and_does_not_read_it(tmp_path: Path, kind: str) -> None:
    def fingerprint() -> str:
        return source_fingerprint(IngestConfig(source=f"images:{tmp_path}/x{kind}"))

    file = write_archive(tmp_path / f"x{kind}", {"a.png": b"a"})
    first = fingerprint()
    assert fingerprint() == first
    os.utime(file, ns=(1, 1))
    second = fingerprint()
    file.write_bytes(b"no archive at all")
    assert len({first, second, fingerprint()}) == 3
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        fingerprint()


def test_dataset_of_an_archive_equals_dataset_of_its_folder(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "in", 40)
    content = {path.relative_to(tmp_path / "in").as_posix(): path.read_bytes() for path in (tmp_path / "in").rglob("*.*")}
    fields = {"labels_from_folders": True, "max_quarantine_fraction": 0.5}
    places = [tmp_path / "in", *(write_archive(tmp_path / f"x{kind}", content) for kind in (".zip", ".tar", ".tar.gz"))]
    made = []
    for place in places:
        out = tmp_path / f"out-{place.name}"
        run(IngestConfig(source=f"images:{place}", **fields), out=out)
        made.append({file.name: file.read_bytes() for file in out.iterdir() if file.name != "manifest.json"})
    assert {name for name in made[0] if name.endswith(".tfrecord")}
    assert made == made[:1] * 4


def test_listing_a_tar_takes_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "x.tar").open("wb") as file:
        for index in range(18_000):
            file.write(tarfile.TarInfo(f"folder/IMG_{index:08d}.jpeg").tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(1024))
    tracemalloc.start()
    reader = open_images(tmp_path / "x.tar")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.total == 18_000
    assert kept / 18_000 < 40
    assert peak / 18_000 < 150
