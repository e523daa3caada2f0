"""The section on validation: of an accepted snapshot, of a refused one, and of one that cannot be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from components.report.description import RunDescription
from components.report.run import run as report
from components.report.sections.validation import headline, label_rows
from tests.support.judged_runs import judged
from tests.support.report_runs import Parsed


def page_of(root: Path, description: RunDescription, status: str) -> tuple[str, Parsed]:
    report(description, folder=root / "report", status=status)
    html = (root / "report" / "report.html").read_text()
    return html, Parsed(html)


def test_a_refusal_is_shown_from_a_history_at_a_url(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=True, history=f"memory://{tmp_path.name}")
    _, page = page_of(tmp_path, description, "failed")
    assert "It was refused." in page.text
    assert "Quarantined images by reason" in page.text


def test_a_refused_snapshot_is_shown_with_its_anomalies(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=True)
    html, page = page_of(tmp_path, description, "failed")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"], summary["validate"]) == ("failed", 3, None)
    assert page.unbalanced == []
    text = re.sub(r"\s+", " ", page.text)
    (refused,) = (tmp_path / "history" / "refused").iterdir()
    snapshot = refused.name.partition("-")[0]
    assert f"--set validate.accept={snapshot}" in text
    assert f"Snapshot {snapshot}, compared with s" in text
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
    assert html.count('<path class="this"') == html.count('<path class="other"') == 3
    kinds = [value for tag, attributes in page.elements if tag == "img" and (value := attributes.get("alt"))]
    assert {f"The 8 {kind} images" for kind in ("blankest", "darkest", "brightest", "most unlike")} <= set(kinds)
    assert "Quarantined images by reason" in text


def test_a_first_snapshot_is_shown_alone(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=False, history="")
    html, page = page_of(tmp_path, description, "failed")
    assert (
        "the first of its history: 1,797 images, 0 near-blank. It was accepted, and later snapshots must match its schema"
        in page.text
    )
    assert "No anomaly was found." in page.text
    assert html.count('<path class="this"') == 3
    assert 'class="other"' not in html
    assert "Distances from" not in page.text


def test_an_accepted_snapshot_is_compared_with_the_one_before(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=False)
    html, page = page_of(tmp_path, description, "failed")
    assert "It was accepted." in page.text
    assert "Labels now and before" in page.text
    assert html.count('<path class="other"') == 3
    assert [row for row in ("Label shares", "Near-blank share", "Brightness of images") if row not in page.text] == []


@pytest.mark.parametrize("name", ["comparison.json", "anomalies.json", "worst.json"])
def test_a_damaged_file_becomes_a_note(name: str, tmp_path: Path) -> None:
    made, description = judged(tmp_path, changed=False)
    (made.out("validate") / name).write_text("{")
    _, page = page_of(tmp_path, description, "failed")
    assert f"{name} is damaged" in page.text
    assert page.unbalanced == []


def test_the_refusal_of_another_dataset_is_not_shown(tmp_path: Path) -> None:
    _, description = judged(tmp_path, changed=True)
    (refused,) = (tmp_path / "history" / "refused").iterdir()
    manifest = json.loads((refused / "manifest.json").read_text())
    (refused / "manifest.json").write_text(json.dumps(manifest | {"inputs": {"dataset": "0" * 64}}))
    _, page = page_of(tmp_path, description, "failed")
    assert "Snapshot s" in page.text  # in the sentence of the failure
    assert "It was refused." not in page.text


def test_the_labels_that_changed_most_come_first() -> None:
    now = {f"n{index:02d}": 10 for index in range(40)}
    rows = label_rows({"now": now, "before": now | {"n07": 0, "n09": 60}})
    assert [row[0] for row in rows[:2]] == ["n09", "n07"]
    assert label_rows({"now": {"unlabelled": 5}, "before": None}) == ()
    assert label_rows({"now": {"a": 3, "b": 1}, "before": None}) == (
        ("a", "75.0\N{NO-BREAK SPACE}%", "—", 100.0, 0.0),
        ("b", "25.0\N{NO-BREAK SPACE}%", "—", pytest.approx(100 / 3), 0.0),
    )


def test_the_headline_names_an_acceptance_by_configuration() -> None:
    content = {
        "snapshot": "s1",
        "against": "s0",
        "why": "validate.accept",
        "images": {"now": 5, "before": 4},
        "blank": {"now": 0},
    }
    assert headline(content).endswith("It was accepted because validate.accept names it.")
