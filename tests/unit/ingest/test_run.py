"""The whole ingest step, with real Beam and real image files."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, ConfigError, DataRejectedError, InterruptedStepError, PipelineError
from components.common.store import writing
from components.dataset.records import read_split
from components.ingest import run as ingest_run
from components.ingest.beam import tasks
from components.ingest.beam.results import balanced
from components.ingest.beam.shards import drop_equals
from components.ingest.config import LOCAL_RUNNER, IngestConfig
from components.ingest.run import IngestSummary, chunk_location, run
from components.ingest.sources.readers import open_source
from tests.support.datasets.image_folder import write_broken_images, write_digit_images


def ingest(out: Path, **fields: Any) -> IngestSummary:
    return run(IngestConfig(**fields), out=out)


def digests(artifact: Path) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in read_manifest(artifact).files.items()}


def all_ids(artifact: Path) -> set[str]:
    return {id for split in ("train", "eval") for id in read_split(artifact, split).ids}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ingest") / "digits"
    ingest(out)
    return out


def test_digits_have_their_pixels_and_labels(digits: Path) -> None:
    source = load_digits()
    levels = np.rint(source.images * (255 / 16)).astype(np.uint8)
    exact = len(np.unique(levels.reshape(len(levels), -1), axis=0))
    manifest = read_manifest(digits, "dataset")
    assert manifest.counts["read"] == 1797
    assert manifest.counts["kept"] == exact == manifest.counts["train"] + manifest.counts["eval"]
    assert manifest.counts["duplicate"] == 1797 - exact
    assert manifest.counts["quarantined"] == 0
    for split in ("train", "eval"):
        images, labels, ids = read_split(digits, split)
        indices = [int(id.removeprefix("digits/")) for id in ids]
        np.testing.assert_array_equal(images[..., 0], levels[indices])
        np.testing.assert_array_equal(labels, source.target[indices])
        histogram = {str(label): count for label, count in sorted(Counter(labels.tolist()).items())}
        assert manifest.details["label_histogram"][split] == histogram
    assert manifest.details["label_names"] == list("0123456789")
    assert 0.15 < manifest.counts["eval"] / 1797 < 0.25


def test_no_image_is_in_two_splits(digits: Path) -> None:
    train, held_out = read_split(digits, "train"), read_split(digits, "eval")
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in held_out.images}
    assert not set(train.ids) & set(held_out.ids)


def test_the_same_input_gives_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    ingest(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(digits)
    assert read_manifest(tmp_path / "again").digest == read_manifest(digits).digest


def test_worker_threads_change_nothing(digits: Path, tmp_path: Path) -> None:
    threads = (LOCAL_RUNNER, "--direct_running_mode=multi_threading", "--direct_num_workers=3")
    ingest(tmp_path / "threads", beam_options=threads)
    assert digests(tmp_path / "threads") == digests(digits)


def test_worker_processes_change_nothing_and_print_nothing(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    processes = (LOCAL_RUNNER, "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    ingest(tmp_path / "processes", beam_options=processes)
    assert digests(tmp_path / "processes") == digests(digits)
    printed = capfd.readouterr()
    assert printed.err == ""
    assert all(line.startswith(("» ", "… ")) for line in printed.out.splitlines())


def test_splits_do_not_depend_on_the_number_of_shards(digits: Path, tmp_path: Path) -> None:
    ingest(tmp_path / "one", shards=1)
    assert sorted(digests(tmp_path / "one")) == [
        "duplicates.jsonl", "eval-00000-of-00001.tfrecord", "quarantine.jsonl", "train-00000-of-00001.tfrecord",
    ]  # fmt: skip
    for split in ("train", "eval"):
        assert set(read_split(tmp_path / "one", split).ids) == set(read_split(digits, split).ids)


def test_empty_shards_are_written(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "in", 3, broken=False)
    ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}", shards=5)
    assert len(digests(tmp_path / "out")) == 12
    assert len(all_ids(tmp_path / "out")) == 3


def test_broken_files_are_quarantined(tmp_path: Path) -> None:
    counts = write_digit_images(tmp_path / "in", 40)
    summary = ingest(
        tmp_path / "out", source=f"images:{tmp_path / 'in'}", labels_from_folders=True, max_quarantine_fraction=0.1,
        image_size=28, channels=3,
    )  # fmt: skip
    assert (summary.read, summary.kept, summary.duplicate, summary.quarantined) == (44, 40, 0, 4)
    assert summary.labels == 10
    listed = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(item["id"], item["reason"]) for item in listed] == sorted(counts.broken.items())
    manifest = read_manifest(tmp_path / "out")
    assert manifest.details["label_names"] == sorted(counts.images)
    both = Counter(manifest.details["label_histogram"]["train"]) + Counter(manifest.details["label_histogram"]["eval"])
    assert both == counts.images
    images, labels, ids = read_split(tmp_path / "out", "train")
    assert images.shape[1:] == (28, 28, 3)
    assert [manifest.details["label_names"][label] for label in labels] == [id.split("/")[0] for id in ids]


def test_too_many_broken_files_are_refused_and_their_list_is_kept(tmp_path: Path) -> None:
    counts = write_digit_images(tmp_path / "in", 40)
    with pytest.raises(DataRejectedError) as caught:
        ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}")
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "4 of 44 files could not be read as images (9.1%, allowed 5.0%)" in message
    assert "0/empty.png (empty file)" in message
    assert "raise ingest.max_quarantine_fraction" in caught.value.cure
    assert str(tmp_path / "quarantine.jsonl") in message
    listed = [json.loads(line)["id"] for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert listed == sorted(counts.broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "quarantine.jsonl"], "nothing else is left"


def test_source_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_broken_images(tmp_path / "in", load_digits().images[0])
    with pytest.raises(DataRejectedError, match=r"None of the 4 files of images:.* is a readable image"):
        ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}", max_quarantine_fraction=1.0)


def test_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "empty").mkdir(parents=True)
    (tmp_path / "in" / ".hidden").touch()
    with pytest.raises(DataRejectedError, match="contains no files except hidden ones"):
        ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}")


def test_missing_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/nowhere is not a folder"):
        ingest(tmp_path / "out", source=f"images:{tmp_path}/nowhere")
    assert list(tmp_path.iterdir()) == []


def test_unreadable_file_and_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "in", 9, broken=False)
    (tmp_path / "in" / "gone.png").symlink_to("nothing")
    digit = next((tmp_path / "in").glob("*/*.png"))
    digit.rename(Path(str(digit.parent / "caf") + "\udce9 €.png"))
    summary = ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}", max_quarantine_fraction=0.2)
    assert (summary.kept, summary.quarantined) == (9, 1)
    assert json.loads((tmp_path / "out" / "quarantine.jsonl").read_text()) == {
        "id": "gone.png", "reason": "unreadable file", "detail": "No such file or directory",
        "head": hashlib.sha256(b"").hexdigest(),
    }  # fmt: skip
    assert f"{digit.parent.name}/caf\\xe9 €.png" in all_ids(tmp_path / "out")


def test_equal_pixels_in_different_files_are_duplicates(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    (tmp_path / "in").mkdir()
    for name in ("b.png", "a.bmp", "c.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    Image.fromarray(255 - pixels).save(tmp_path / "in" / "other.png")
    summary = ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}")
    assert (summary.read, summary.kept, summary.duplicate) == (4, 2, 2)
    assert all_ids(tmp_path / "out") == {"a.bmp", "other.png"}, "the smallest id is kept"
    listed = [json.loads(line) for line in (tmp_path / "out" / "duplicates.jsonl").read_text().splitlines()]
    assert listed == [{"id": id, "of": "a.bmp", "kind": "same pixels"} for id in ("b.png", "c.png")]


def test_lost_image_is_an_error() -> None:
    tally = {"read": 10, "train": 6, "eval": 2, "duplicate": 1, "quarantined": 1}
    assert balanced(tally, 10)["kept"] == 8
    for total in (9, 11):
        with pytest.raises(PipelineError, match=f"{total} in the source, 10 read, but 8 kept"):
            balanced(tally, total)
    for name in tally:
        with pytest.raises(PipelineError, match="Images were lost or counted twice"):
            balanced(tally | {name: tally[name] + 1}, 10)


def test_image_lost_inside_the_pipeline_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "drop_equals", lambda shard: (drop_equals(shard)[0], []))
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    Image.new("L", (8, 8)).save(tmp_path / "2.png")
    with pytest.raises(PipelineError, match="2 read, but 1 kept \\+ 0 duplicate \\+ 0 quarantined"):
        ingest(tmp_path / "out", source=f"images:{tmp_path}/*.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--runner=NoSuchRunner",), "Unexpected pipeline runner: NoSuchRunner"),
        (("--runner=no.such.module",), "No module named 'no'"),
        ((LOCAL_RUNNER, "--direct_num_workers=many"), "invalid int value: 'many'"),
    ],
)
def test_invalid_beam_options_are_config_errors(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ingest\.beam_options") as caught:
        ingest(tmp_path / "out", beam_options=options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_beam_does_not_read_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--runner=NoSuchRunner", "--direct_num_workers=many"])
    write_digit_images(tmp_path / "in", 2, broken=False)
    assert ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}").kept == 2


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (OSError(28, "No space left on device"), ArtifactError, "Cannot write shard 0: No space left"),
        (ArtifactError("A problem.", "A cure."), ArtifactError, "A problem. A cure."),
        (InterruptedStepError("Gone.", "Run again."), InterruptedStepError, "Gone. Run again."),
        (ValueError("a bug"), PipelineError, "The Beam pipeline failed: ValueError: a bug [while running"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
)
def test_errors_of_workers_reach_the_user_in_one_line(
    raised: BaseException, expected: type[BaseException], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        with writing("shard 0"):
            raise raised

    monkeypatch.setattr(tasks, "write_shard", fail)
    write_digit_images(tmp_path / "in", 2, broken=False)
    with pytest.raises(expected) as caught:
        ingest(tmp_path / "out" / "dataset", source=f"images:{tmp_path / 'in'}", shards=1, eval_fraction=1e-9)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left == [".dataset.ingest"], "no incomplete artifact, only the finished chunks"
    if isinstance(raised, PipelineError):
        assert isinstance(caught.value, PipelineError)
        assert (caught.value.problem, caught.value.cure) == (raised.problem, raised.cure)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"Cannot write .*/file/.*: Not a directory"):
        ingest(tmp_path / "file" / "out")


INTERRUPTED = """
import os, sys
from components.common.command import main
from components.ingest import run
from components.ingest.beam import tasks
from components.ingest.config import IngestConfig

write_chunk, written = tasks.write_chunk, []

def interrupting(*arguments):
    written.append(write_chunk(*arguments))
    if len(written) == int(sys.argv[1]):
        os.kill(os.getpid(), int(sys.argv[2]))
    return written[-1]

tasks.write_chunk = interrupting
sys.exit(main("ingest", IngestConfig, run.run, {}, sys.argv[3:]))
"""


def interrupt(fields: dict[str, Any], out: Path, chunks: int, number: signal.Signals) -> int:
    """Run ingest in a process that sends itself a signal after some chunk files; return its exit code."""
    config = out.parent.with_suffix(".toml")
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()))
    command = [sys.executable, "-c", INTERRUPTED, str(chunks), str(int(number)), "--config", config, "--out", out]
    return subprocess.run(command, capture_output=True, check=False).returncode


def chunk_files(out: Path) -> list[Path]:
    return list(out.parent.glob(f".{out.name}.ingest/*/*.chunk"))


def test_ctrl_c_leaves_only_finished_chunks(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "in", 600, broken=False)
    out = tmp_path / "out" / "dataset"
    assert interrupt({"source": f"images:{tmp_path / 'in'}"}, out, 1, signal.SIGINT) != 0
    assert [path.name for path in out.parent.iterdir()] == [".dataset.ingest"]
    assert chunk_files(out)


def test_run_after_one_that_was_killed_repeats_no_finished_chunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_digit_images(tmp_path / "in", 600, broken=True)
    fields = {"source": f"images:{tmp_path / 'in'}", "max_quarantine_fraction": 0.2}
    whole, out = tmp_path / "whole" / "dataset", tmp_path / "out" / "dataset"
    ingest(whole, **fields)
    assert interrupt(fields, out, 2, signal.SIGKILL) == -signal.SIGKILL
    finished = {file: file.stat().st_mtime_ns for file in chunk_files(out)}
    assert len(finished) == 2
    ingest(out, **fields)
    assert "Resuming an earlier run: 2 of 3 chunks are finished" in capsys.readouterr().out
    assert read_manifest(out).digest == read_manifest(whole).digest
    assert [path.name for path in out.parent.iterdir()] == ["dataset"], "nothing else is left"


def test_changed_source_does_not_reuse_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digit_images(tmp_path / "in", 20, broken=False)
    monkeypatch.setattr(ingest_run, "write_lists", FailOnce(tmp_path / "failed", ingest_run.write_lists))
    with pytest.raises(PipelineError, match="first time"):
        ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}")
    assert len(chunk_files(tmp_path / "out")) == 1
    Image.new("L", (9, 9), 77).save(next((tmp_path / "in").glob("*/*.png")))
    assert ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}").kept == 20
    images = np.concatenate([read_split(tmp_path / "out", split).images for split in ("train", "eval")])
    assert (images == 77).all(axis=(1, 2, 3)).sum() == 1, "the new content is used"


def test_finished_shard_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digit_images(tmp_path / "in", 20, broken=False)
    monkeypatch.setattr(tasks, "write_shard", Recorded(tmp_path / "written", tasks.write_shard))
    monkeypatch.setattr(ingest_run, "write_lists", FailOnce(tmp_path / "failed", ingest_run.write_lists))
    with pytest.raises(PipelineError, match="first time"):
        ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}")
    assert (tmp_path / "written").read_text() == "x" * 4
    assert ingest(tmp_path / "out", source=f"images:{tmp_path / 'in'}").kept == 20
    assert (tmp_path / "written").read_text() == "x" * 4, "all four were finished"


def test_two_ingests_of_the_same_source_exclude_each_other(tmp_path: Path) -> None:
    config = IngestConfig()
    folder = partial(chunk_location, config, open_source(config), tmp_path / "out", None)
    with (
        folder(),
        pytest.raises(ArtifactError, match=r"Another ingest of the same source \(process \d+ on \S+\) holds"),
        folder(),
    ):
        pass


class FailOnce:
    """A function that fails the first time it is called; a file records that, since Beam copies it to its workers."""

    def __init__(self, failed: Path, function: Callable[..., Any]) -> None:
        self.failed, self.function = failed, function

    def __call__(self, *arguments: Any) -> Any:
        if not self.failed.exists():
            self.failed.touch()
            raise PipelineError("The first time.", "Run again.")
        return self.function(*arguments)


class Recorded:
    """A function that appends an x to a file for each call."""

    def __init__(self, file: Path, function: Callable[..., Any]) -> None:
        self.file, self.function = file, function

    def __call__(self, *arguments: Any) -> Any:
        with self.file.open("a") as stream:
            stream.write("x")
        return self.function(*arguments)


def test_without_tfds_no_tensorflow_is_imported_and_nothing_else_is_printed(tmp_path: Path) -> None:
    write_digit_images(tmp_path / "in", 4, broken=False)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from components.ingest.run import run\n"
        "from components.ingest.config import IngestConfig\n"
        f"run(IngestConfig(), out=Path({str(tmp_path / 'digits')!r}))\n"
        f"run(IngestConfig(source={f'images:{tmp_path}/in'!r}), out=Path({str(tmp_path / 'files')!r}))\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert all(line.startswith(("» ", "… ")) for line in done.stdout.splitlines())
    assert "Read 4 = 4 kept + 0 duplicate + 0 quarantined" in done.stdout


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "components.ingest", "--out", str(tmp_path / "out")]
    (tmp_path / "config.toml").write_text('[ingest]\nsource = "images:/no/such/folder"\n')
    done = subprocess.run([*command, "--config", str(tmp_path / "config.toml")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "/no/such/folder is not a folder" in done.stderr
