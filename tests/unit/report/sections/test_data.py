"""Counts, labels and the samples over time: what is shown, and in which order."""

from __future__ import annotations

import pytest

from components.report.sections.data import count_rows, label_bars
from components.report.sections.training import pick_evenly


def test_labels_are_counted_over_all_splits() -> None:
    histogram = {"train": {"shirt": 3, "shoe": 2, "unlabelled": 1}, "eval": {"shoe": 2, "hat": 1}}
    bars = label_bars({"label_histogram": histogram}).bars
    assert [(bar.name, bar.text) for bar in bars] == [("shirt", "3"), ("shoe", "4"), ("unlabelled", "1"), ("hat", "1")]
    assert label_bars({"label_histogram": {"train": {"unlabelled": 5}, "eval": {}}}).bars == ()
    assert label_bars({}).bars == ()


def test_counts_keep_their_order() -> None:
    rows = count_rows({"eval": 2, "kept": 8, "read": 10, "duplicate": 1, "quarantined": 1, "other": 3})
    assert [row[0] for row in rows] == ["read", "kept", "duplicate", "quarantined", "eval"]
    assert count_rows({}) == ()


@pytest.mark.parametrize("count", range(1, 14))
def test_rounds_are_picked_evenly_with_first_and_last(count: int) -> None:
    names = [f"samples/round-{at:08d}.png" for at in range(count)]
    picked = pick_evenly(names)
    assert len(picked) == len(set(picked)) == min(6, count)
    assert (picked[0], picked[-1]) == (names[0], names[-1])
    assert picked == sorted(picked)
