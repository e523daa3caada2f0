"""Tallies: the same images give the same tally in any parts, in any order and with any runner."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.artifacts import Manifest, read_manifest
from components.common.errors import ConfigError
from components.dataset.records import Record
from components.ingest.config import LOCAL_RUNNER
from components.validate.config import ValidateConfig
from components.validate.statistics import scan
from components.validate.statistics.outliers import most_unlike, worst_images
from components.validate.statistics.scan import tally_dataset
from components.validate.statistics.tally import IMAGE_BUCKETS, SAMPLED, WORST, RecordRef, Tally, tally_records
from tests.support.datasets.snapshots import Images, digits, with_blanks, write_snapshot


def tally_of(images: Images, first: int = 0) -> Tally:
    numbers = range(first, first + len(images))
    records = [Record(image, at % 3, f"i{at}") for at, image in zip(numbers, images, strict=True)]
    return tally_records(records, [RecordRef(f"i{at}", "f", at) for at in numbers], 2.0)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 99), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_adding_tallies_is_exact_in_any_order_and_grouping(cuts: list[int], random: object) -> None:
    images = digits()[0][:100]
    edges = [0, *sorted(set(cuts)), 100]
    parts = [tally_of(images[a:b], a) for a, b in itertools.pairwise(edges)]
    forward = parts[0]
    for part in parts[1:]:
        forward = forward + part
    backward = parts[-1]
    for part in reversed(parts[:-1]):
        backward = part + backward
    random.shuffle(parts)  # type: ignore[attr-defined]
    shuffled = sum(parts[1:], Tally(1) + parts[0])
    assert forward.to_json() == backward.to_json() == shuffled.to_json() == Tally.from_json(forward.to_json()).to_json()
    assert (forward.count, sum(forward.labels.values()), forward.levels.sum()) == (100, 100, 6400)


def test_counts_match_numpy() -> None:
    images = with_blanks(digits()[0], 0.01)
    tally = tally_of(images)
    flat = images.reshape(len(images), -1).astype(np.float64)
    assert tally.blank == (flat.std(axis=1) < 2.0).sum() == 18
    assert tally.brightness.tolist() == np.histogram(flat.mean(axis=1), IMAGE_BUCKETS, (0, 256))[0].tolist()
    assert tally.contrast.tolist() == np.histogram(flat.std(axis=1), IMAGE_BUCKETS, (0, 128))[0].tolist()
    each = np.stack([np.histogram(image, 32, (0, 256))[0] for image in flat])
    assert tally.products[0].tolist() == (each.T @ each).tolist()
    assert len(tally.sample) == SAMPLED


def test_the_worst_images_are_listed_first() -> None:
    images = digits()[0].copy()
    images[5], images[6] = 250, 0
    found = worst_images(tally_of(images))
    assert {item.id for item in found["blankest"][:2]} == {"i5", "i6"}
    assert found["darkest"][0].id == "i6"
    assert found["brightest"][0].id == "i5"
    assert {item.id for item in most_unlike(tally_of(images))[:2]} == {"i5", "i6"}
    assert all(len(items) == WORST for items in found.values())


def dataset(tmp_path: Path) -> tuple[Path, Manifest]:
    images, labels = digits()
    folder = write_snapshot(tmp_path / "dataset", images[:300], labels[:300], shards=3)
    return folder, read_manifest(folder)


@pytest.mark.parametrize("options", [(LOCAL_RUNNER,), (LOCAL_RUNNER, "--direct_num_workers=2"), ()])
def test_beam_and_this_process_give_the_same_tally(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = dataset(tmp_path)
    here = tally_dataset(ValidateConfig(), folder, manifest, tmp_path)
    monkeypatch.setattr(scan, "SMALL_BYTES", 0)
    there = tally_dataset(ValidateConfig(beam_options=options), folder, manifest, tmp_path)
    assert {split: tally.to_json() for split, tally in here.items()} == {
        split: tally.to_json() for split, tally in there.items()
    }
    assert here["train"].count == 240
    assert [file.name for file in tmp_path.iterdir()] == ["dataset"]


def test_an_unknown_runner_is_an_error(tmp_path: Path) -> None:
    folder, manifest = dataset(tmp_path)
    with pytest.raises(ConfigError, match=r"^validate\.beam_options: .*NoSuchRunner"):
        tally_dataset(ValidateConfig(beam_options=("--runner=NoSuchRunner",)), folder, manifest, tmp_path)
