"""The report's page on validation: of an accepted snapshot, of one that stopped the run, and of what cannot be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from components.report.description import RunDescription
from components.report.plots.histograms import draw_histogram
from components.report.run import run as report
from components.report.sections.validation import headline, label_rows
from tests.support.judged_runs import judged
from tests.support.report_runs import Parsed


def page_of(root: Path, description: RunDescription, status: str) -> tuple[str, Parsed]:
    report(description, folder=root / "report", status=status)
    html = (root / "report" / "report.html").read_text()
    return html, Parsed(html)


def test_a_run_that_validate_stopped_shows_why(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=True)
    html, page = page_of(tmp_path, description, "failed")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"], summary["validate"]) == ("failed", 3, None)
    assert page.unbalanced == []
    text = re.sub(r"\s+", " ", page.text)
    (refused,) = (tmp_path / "history" / "refused").iterdir()
    assert f"--set validate.accept={refused.name}" in text
    assert f"Snapshot {refused.name}, compared with s" in text
    assert "It was refused." in text
    assert "the brightness histogram moved by" in text
    assert "varied enough to train on" not in text
    assert html.count('class="severity error"') == 3
    titles = re.findall(r'<title id="histogram\d">(.*?)</title>', html)
    assert [title.partition(":")[0] for title in titles] == [
        "Brightness of images",
        "Contrast of images",
        "Grey levels, channel 0",
    ]
    assert all(re.search(r"mean [\d.]+ now, [\d.]+ before\. It moved by 0\.\d{4} bits\.", title) for title in titles)
    assert html.count('<path class="now"') == html.count('<path class="other"') == 3
    kinds = [value for tag, attributes in page.elements if tag == "img" and (value := attributes.get("alt"))]
    assert {f"The 8 {kind} images" for kind in ("blankest", "darkest", "brightest", "most unlike")} <= set(kinds)
    assert "Quarantined images by reason" in text


def test_a_first_snapshot_has_nothing_before_it(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=False, history=False)
    html, page = page_of(tmp_path, description, "failed")
    assert "the first of its history: 1,797 images, 0 near-blank. It was accepted, and its schema is held" in page.text
    assert "No anomaly was found." in page.text
    assert html.count('<path class="now"') == 3
    assert 'class="other"' not in html
    assert "Distances from" not in page.text


def test_an_accepted_snapshot_stands_beside_the_one_before(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=False)
    html, page = page_of(tmp_path, description, "failed")
    assert "It was accepted." in page.text
    assert "Labels now and before" in page.text
    assert html.count('<path class="other"') == 3
    assert [row for row in ("label shares", "near-blank share", "Brightness of images") if row not in page.text] == []


@pytest.mark.parametrize("name", ["comparison.json", "anomalies.json", "worst.json"])
def test_what_is_damaged_becomes_a_sentence(name: str, tmp_path: Path) -> None:
    made, description = judged(tmp_path, changed=False)
    (made.out("validate") / name).write_text("{")
    _, page = page_of(tmp_path, description, "failed")
    assert f"{name} is damaged" in page.text
    assert page.unbalanced == []


def test_another_dataset_s_refusal_is_not_shown(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=True)
    (refused,) = (tmp_path / "history" / "refused").iterdir()
    manifest = json.loads((refused / "manifest.json").read_text())
    (refused / "manifest.json").write_text(json.dumps(manifest | {"inputs": {"dataset": "0" * 64}}))
    _, page = page_of(tmp_path, description, "failed")
    assert "Snapshot s" in page.text  # the sentence of the failure
    assert "It was refused." not in page.text


def test_histograms_share_one_axis() -> None:
    chart = draw_histogram("T", "m", 4.0, [0, 30, 10], [20, 20, 0])
    assert chart.now == "M56 174H154V17.8H252V121.9H350L350 174L56 174Z"
    assert chart.before == "M56 69.9H154H252V174H350"
    assert [label for _, label in chart.x_ticks] == ["0", "5", "10"]
    assert chart.description == "T: mean 7.0 now, 4.0 before."
    assert chart.cut == ""


def test_one_bucket_far_above_the_others_is_cut() -> None:
    chart = draw_histogram("T", "m", 8.0, [900, 50, 50], None)
    assert chart.cut == "One bucket goes beyond the axis, to 90.0\N{NO-BREAK SPACE}%."
    assert chart.now.startswith("M56 10H")
    assert max(float(label.split()[0]) for _, label in chart.y_ticks) <= 6


@pytest.mark.parametrize(("now", "before"), [([], None), ([0, 0], None), ([1, 2], [1]), ([1], [0])])
def test_histograms_of_nothing_are_refused(now: list[int], before: list[int] | None) -> None:
    with pytest.raises(ValueError, match="buckets now"):
        draw_histogram("T", "m", 1.0, now, before)


def test_of_many_labels_those_that_changed_most_come_first() -> None:
    now = {f"n{index:02d}": 10 for index in range(40)}
    rows = label_rows({"now": now, "before": now | {"n07": 0, "n09": 60}})
    assert [row[0] for row in rows[:2]] == ["n09", "n07"]
    assert label_rows({"now": {"unlabelled": 5}, "before": None}) == ()
    assert label_rows({"now": {"a": 3, "b": 1}, "before": None}) == (
        ("a", "75.0\N{NO-BREAK SPACE}%", "—", 100.0, 0.0),
        ("b", "25.0\N{NO-BREAK SPACE}%", "—", pytest.approx(100 / 3), 0.0),
    )


def test_who_accepted_is_told() -> None:
    content = {
        "snapshot": "s1",
        "against": "s0",
        "why": "validate.accept",
        "images": {"now": 5, "before": 4},
        "blank": {"now": 0},
    }
    assert headline(content).endswith("It was accepted knowingly, by validate.accept.")
