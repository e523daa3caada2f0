"""The outcome of each step, derived from the journal entries and their times."""

from __future__ import annotations

from typing import Any

import pytest

from components.common.errors import DataRejectedError
from components.common.journal import STEPS, StepRecord, step_error
from components.report.outcomes import (
    StepOutcome,
    contradiction,
    derive_outcomes,
    find_failure,
    run_status,
)

BEFORE, START, LATER, END = (f"2026-01-31T10:{minute}:00.000+00:00" for minute in ("00", "10", "20", "30"))


def entry(step: str, state: str, started_at: str, **fields: Any) -> StepRecord:
    return StepRecord(step=step, key="k" * 64, state=state, pid=4_194_305, started_at=started_at, **fields)


def entries(words: str, decided: dict[str, Any] | None = None) -> dict[str, StepRecord]:
    """Return entries from one word per step: `new-STATE` began in this run, `old-STATE` before it, `none` has no entry."""
    records = {}
    for step, word in zip(STEPS, filled(words, "none"), strict=True):
        if word != "none":
            age, _, state = word.partition("-")
            summary = decided or {} if step in ("gate", "push") else {}
            started = LATER if age == "new" else START if age == "now" else BEFORE
            records[step] = entry(step, state, started, seconds=2.5, summary=summary)
    return records


# name: (entries, outcomes, status of the run); missing words at the end stand for `none` and `skipped`
CASES = {
    "all ran": ("new-succeeded " * 6, "succeeded " * 6, "succeeded"),
    "started in the same millisecond": ("now-succeeded " * 6, "succeeded " * 6, "succeeded"),
    "all cached, the last two ran": (
        "old-succeeded " * 4 + "new-succeeded " * 2,
        "cached " * 4 + "succeeded " * 2,
        "succeeded",
    ),
    "old verdicts and pushes are never reused": ("old-succeeded " * 6, "cached " * 4, "failed"),
    "nor is an old push": (
        "old-succeeded " * 4 + "new-succeeded old-succeeded",
        "cached " * 4 + "succeeded",
        "failed",
    ),
    "first failed": ("new-failed", "failed", "failed"),
    "old entries after a failure do not count": (
        "old-succeeded new-failed old-succeeded old-succeeded old-succeeded",
        "cached failed",
        "failed",
    ),
    "killed": ("old-succeeded new-succeeded new-running", "cached succeeded killed", "failed"),
    "interrupted": (
        "new-succeeded new-succeeded new-interrupted old-succeeded",
        "succeeded succeeded interrupted",
        "interrupted",
    ),
    "an old failure belongs to another run": ("old-failed", "", "failed"),
    "an old kill belongs to another run": ("new-succeeded old-running", "succeeded", "failed"),
    "nothing ran": ("", "", "failed"),
    "no reuse after a gap": ("none old-succeeded old-succeeded", "", "failed"),
}


def filled(words: str, word: str) -> list[str]:
    return (words.split() + [word] * len(STEPS))[: len(STEPS)]


@pytest.mark.parametrize(("words", "expected", "status"), CASES.values(), ids=CASES.keys())
def test_outcomes_follow_from_entries_and_times(words: str, expected: str, status: str) -> None:
    outcomes = derive_outcomes(entries(words), START, END)
    assert [outcome.step for outcome in outcomes] == list(STEPS)
    assert [outcome.status for outcome in outcomes] == filled(expected, "skipped")
    assert run_status("failed" if status == "failed" else "succeeded", outcomes) == status
    for outcome in outcomes:
        assert (outcome.record is None) == (outcome.status == "skipped")
        assert outcome.cached == (outcome.status == "cached")
        assert outcome.seconds == {"cached": 0, "skipped": 0, "killed": 600}.get(outcome.status, 2.5)


def test_an_unchanged_verdict_or_push_counts_as_cached() -> None:
    words = "old-succeeded " * 4 + "new-succeeded " * 2
    assert all(outcome.cached for outcome in derive_outcomes(entries(words, {"decision": "unchanged"}), START, END))
    assert not derive_outcomes(entries(words, {"decision": "published"}), START, END)[-1].cached
    assert derive_outcomes(entries(words, {"decision": "unchanged"}), START, END)[-1].status == "succeeded"


def test_times_with_and_without_a_time_zone_are_compared() -> None:
    one = {"ingest": entry("ingest", "succeeded", "2026-01-31T12:05:00+02:00")}
    assert derive_outcomes(one, START, END)[0].status == "cached"
    assert derive_outcomes(one, "2026-01-31T10:05:00", END)[0].status == "succeeded"
    assert derive_outcomes(one, "2026-01-31T10:05:00Z", END)[0].status == "succeeded"


@pytest.mark.parametrize(
    ("reported", "words", "expected"),
    [
        ("succeeded", "new-succeeded " * 6, "succeeded"),
        ("SUCCEEDED", "new-succeeded " * 6, "succeeded"),
        # DockerRunner reports success for a container that failed, and dsl.If for a branch that never ran.
        ("succeeded", "new-succeeded new-succeeded new-failed none none", "failed"),
        ("succeeded", "new-succeeded new-succeeded new-succeeded new-succeeded new-succeeded none", "failed"),
        ("failed", "new-succeeded " * 6, "succeeded"),
        # Kubeflow Pipelines 2.17.0: a success, a run in which the driver of push failed, a failed step, nothing at all
        ("COMPLETE", "new-succeeded " * 6, "succeeded"),
        ("COMPLETE", "old-succeeded " * 4 + "new-succeeded " * 2, "succeeded"),
        ("RUNNING", "new-succeeded " * 5, "failed"),
        ("RUNNING", "old-succeeded " * 6, "failed"),
        ("FAILED", "new-succeeded new-failed", "failed"),
        ("", "new-succeeded " * 6, "succeeded"),
        ("failed", "new-succeeded new-interrupted none none none", "interrupted"),
        ("interrupted", "new-succeeded new-running none none none", "interrupted"),
        ("CANCELLED", "none " * 6, "interrupted"),
    ],
)
def test_the_steps_decide_and_not_the_runner(reported: str, words: str, expected: str) -> None:
    assert run_status(reported, derive_outcomes(entries(words), START, END)) == expected


@pytest.mark.parametrize(
    ("reported", "said"),
    [
        ("SUCCEEDED", ""),
        ("COMPLETE", ""),
        ("FAILED", "Every step recorded success, but the pipeline's runner reported FAILED: it may have lost an output."),
        ("", "Every step recorded success, but the pipeline's runner reported no state: "),
    ],
)
def test_a_platform_that_contradicts_a_success_is_named(reported: str, said: str) -> None:
    assert contradiction(reported, "succeeded").startswith(said)
    assert bool(contradiction(reported, "succeeded")) == bool(said)
    assert contradiction(reported, "failed") == ""


def test_the_failure_is_the_error_of_the_step() -> None:
    error = step_error(DataRejectedError("9 of 100 images cannot be read.", "Remove them."))
    broken = StepOutcome("ingest", "failed", record=entry("ingest", "failed", LATER, error=error))
    failure = find_failure("failed", (broken,), "Inner task failed: 'ingest'")
    assert failure is not None
    assert (failure.step, failure.exit_code) == ("ingest", 3)
    assert (failure.problem, failure.cure) == ("9 of 100 images cannot be read.", "Remove them.")
    assert "DataRejectedError" in failure.traceback


def test_a_killed_step_is_named_with_its_process() -> None:
    words = "new-succeeded new-succeeded new-running none none"
    failure = find_failure("failed", derive_outcomes(entries(words), START, END), "")
    assert failure is not None
    assert failure.step == "train"
    assert failure.problem == "train ended without a result after at most 600 s: process 4194305 was killed."
    assert failure.exit_code == 1


@pytest.mark.parametrize(("message", "reason"), [("disk full", "The runner reported: disk full"), (" ", "gave no reason")])
def test_a_failure_without_an_error_has_the_message_of_the_runner(message: str, reason: str) -> None:
    outcomes = derive_outcomes(entries("new-succeeded new-succeeded none none none"), START, END)
    failure = find_failure("failed", outcomes, message)
    assert failure is not None
    assert failure.step is None
    assert "no step recorded an error, and there is no record of train, evaluate, gate, push" in failure.problem
    assert reason in failure.problem
    assert failure.cure


def test_a_run_is_interrupted_between_steps_or_succeeds() -> None:
    outcomes = derive_outcomes(entries("new-succeeded none none none none"), START, END)
    failure = find_failure("interrupted", outcomes, "")
    assert failure is not None
    assert failure.problem == "The run was interrupted between two steps."
    assert find_failure("succeeded", outcomes, "") is None
