"""Runs and schedules on a platform, as its client returns them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from components.common.journal import STEPS
from pipeline.cron import Cron

POLL_SECONDS = 5.0
TASKS = {"snapshot", *STEPS, "tpu_check", "report"}


class Submitted(NamedTuple):
    """A run on a platform."""

    run_id: str
    name: str
    link: str


class Outcome(NamedTuple):
    """How a run ended: its state as the platform names it, the steps that failed, and what the platform says of it."""

    state: str
    failed: tuple[str, ...]
    message: str

    @property
    def succeeded(self) -> bool:
        """Whether the run and every step of it did: an exit handler that succeeds must not hide a step that failed."""
        return self.state == "SUCCEEDED" and not self.failed


class Scheduled(NamedTuple):
    """A schedule on a platform: `cron` is None where it is none of ours, `words` say then what it is."""

    schedule_id: str
    name: str
    on: bool
    cron: Cron | None
    words: str


def is_step(name: str) -> bool:
    """Whether a task is one of our steps, and not one that the platform adds (root, exit-handler-1, train-driver, executor)."""
    return name.replace("-", "_") in TASKS


def ended_with(state: str, tasks: Mapping[str, str], message: str) -> Outcome:
    """Return the outcome of a run that has ended, from the states of its tasks; the platform's own count where none is ours."""
    failed = [name for name, each in tasks.items() if each in ("FAILED", "CANCELED", "CANCELLED")]
    return Outcome(state, tuple([name for name in failed if is_step(name)] or failed), message)
