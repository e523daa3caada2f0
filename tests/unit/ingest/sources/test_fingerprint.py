"""Listing a source and computing its fingerprint, without importing Beam, TensorFlow or scikit-learn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.common.errors import ConfigError
from components.ingest.config import IngestConfig
from components.ingest.sources.chunks import id_of
from components.ingest.sources.fingerprint import source_fingerprint
from components.ingest.sources.location import find_files


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names_below(location: str) -> list[str]:
    return [id_of(file.name) for file in find_files(location).files()]


def fingerprint(location: object) -> str:
    return source_fingerprint(IngestConfig(source=f"images:{location}"))


def test_folder_is_listed_in_order_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "a/x/1.jpg", "z.txt", ".hidden", ".git/config", "b/.DS_Store")
    assert names_below(str(tmp_path)) == ["a/x/1.jpg", "b/2.png", "z.txt"]


def test_pattern_lists_its_matches_relative_to_its_fixed_part(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "a/x/1.png", "a/x/1.jpg", "a/.h.png", "0.png")
    assert names_below(f"{tmp_path}/**/*.png") == ["0.png", "a/x/1.png", "b/2.png"]
    assert names_below(f"{tmp_path}/a/*/1.*") == ["x/1.jpg", "x/1.png"]
    assert names_below(f"{tmp_path}/b/2.png") == ["2.png"], "a single file is a pattern"


def test_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path / "data[1]", "x.png")
    assert names_below(str(tmp_path / "data[1]")) == ["x.png"]


def test_relative_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/x.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names_below("in") == names_below("in/*.png") == names_below("~/in") == ["x.png"]
    assert names_below("*/x.png") == ["in/x.png"]


def test_links_are_followed_once_and_broken_links_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "other/2.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nothing")
    assert names_below(str(tmp_path / "a")) == ["1.png", "gone.png", "loop/other/2.png"]


def test_id_of_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    assert names_below(str(tmp_path)) == [r"caf\xe9.png"]


def test_missing_source(tmp_path: Path) -> None:
    for location in (tmp_path / "nowhere", tmp_path / "*.png"):
        with pytest.raises(ConfigError, match="is not a folder, and no file matches it") as caught:
            fingerprint(location)
        assert str(location) in str(caught.value)
        assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"ingest.tfds_manual_dir = .*there is no such folder"):
        source_fingerprint(IngestConfig(source="tfds:mnist", tfds_manual_dir=str(tmp_path / "nowhere")))


def test_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.png")
    seen = [fingerprint(tmp_path)]
    assert fingerprint(tmp_path) == seen[0]
    touch(tmp_path, "a/3.png")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "a/3.png").write_bytes(b"longer than before")
    seen.append(fingerprint(tmp_path))
    os.utime(tmp_path / "a/1.png", ns=(1, 1))
    seen.append(fingerprint(tmp_path))
    (tmp_path / "a/2.png").rename(tmp_path / "a/4.png")
    seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == 5
    touch(tmp_path, ".hidden")
    assert fingerprint(tmp_path) == seen[-1]


def test_fingerprint_of_a_tfds_source(tmp_path: Path) -> None:
    touch(tmp_path, "train.gz")

    def of(source: str = "tfds:mnist", split: str = "train", held_out: str = "", manual: str = "") -> str:
        return source_fingerprint(
            IngestConfig(source=source, tfds_split=split, tfds_eval_split=held_out, tfds_manual_dir=manual)
        )

    seen = {of(), of("tfds:emnist"), of(split="test"), of(held_out="test"), of(manual=str(tmp_path))}
    touch(tmp_path, "test.gz")
    assert len(seen | {of(manual=str(tmp_path))}) == 6
    assert of() in seen
    assert source_fingerprint(IngestConfig()) not in seen


def test_fingerprint_is_fast(tmp_path: Path) -> None:
    for index in range(2000):
        (tmp_path / f"{index}.png").touch()
    started = time.process_time()
    fingerprint(tmp_path)
    assert (time.process_time() - started) * 30 < 4.0, "seconds of CPU for 60,000 files"


def test_fingerprint_imports_nothing_heavy(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    program = (
        "import sys\n"
        "from components.ingest.sources.fingerprint import source_fingerprint\n"
        "from components.ingest.config import IngestConfig\n"
        f"for source in ('digits', 'images:{tmp_path}', 'tfds:mnist'): source_fingerprint(IngestConfig(source=source))\n"
        "print([name for name in ('tensorflow', 'apache_beam', 'sklearn', 'PIL', 'numpy', 'fsspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
