"""Why pods wait or fail, in submit's words: from answers of a real Kubeflow Pipelines, recorded in pods/.

Each file has what submit is to say and, of one run, the state (v2beta1), Argo's workflow (v1beta1) and the events or logs that
KFP's user interface gave for its pods, with the versions. Fields that nothing reads are left out.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.targets import remote
from pipeline.targets.kubeflow.pods import Pod, explain, read_pods
from tests.support.command_line import run
from tests.support.servers.kubeflow_server import task_details
from tests.targets.platform_tests import Platform

PODS = Path(__file__).parent / "pods"
POD = Pod("train", 1, False, "Pending", "", "a-pod", "kubeflow", "registry/image:1", "4Gi")


def recorded(server: Any, case: str) -> dict[str, Any]:
    """Make the server answer as the real one did in this case; return the answers."""
    answers: dict[str, Any] = json.loads((PODS / f"{case}.json").read_bytes())
    server.runs[answers["run"]["run_id"]] = {}
    server.answers = [answers["run"]]
    server.workflow, server.events, server.logs = answers["workflow"], answers["events"], answers["logs"]
    return answers


def follow(platform: Platform, case: str) -> tuple[list[str], str]:
    """Return the lines of submit, which fails, and the sentence that it is to say."""
    answers = recorded(platform.server, case)
    run_id = answers["run"]["run_id"]
    code, output = run("submit", *platform.options, "--follow", run_id)
    assert code == 1
    return [line.replace(f"{platform.service}/#/runs/details/{run_id}", "LINK") for line in output.splitlines()], answers[
        "submit_says"
    ]


MESSAGES = [each for key in ("seen", "by_source") for each in json.loads((PODS / "messages.json").read_bytes())[key]]
LASTING = ("claim", "executor-image", "image", "secret")
FAILED = ("account", "deadline", "driver", "emptydir", "exit", "oom")
GOES_ON = ("deleted", "quota", "tpu")


@pytest.mark.parametrize("case", LASTING)
def test_a_pod_that_waits_in_vain(platform: Platform, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Told once, while it waits; after a while submit ends, and the run does not."""
    monkeypatch.setattr(remote, "TOLD_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(remote, "GIVEN_UP_AFTER_SECONDS", 0.05)
    output, sentence = follow(platform, case)
    assert [line for line in output if line != "  train: running"] == [
        f"  {sentence}",
        f"Not waited for any longer: {sentence} The run, which goes on then: LINK",
    ]


@pytest.mark.parametrize("case", FAILED)
def test_a_pod_that_failed(platform: Platform, case: str) -> None:
    output, sentence = follow(platform, case)
    assert output[-1] == f"Failed: {sentence} The run: LINK"


@pytest.mark.parametrize("case", GOES_ON)
def test_a_run_that_goes_on(platform: Platform, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Submit says once why a pod waits or was lost, and waits for the end of the run."""
    monkeypatch.setattr(remote, "TOLD_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(remote, "GIVEN_UP_AFTER_SECONDS", 0.0)
    answers = recorded(platform.server, case)
    now = answers["run"]
    ended = {**now, "state": "SUCCEEDED", "run_details": task_details({"train": "SUCCEEDED"})}
    platform.server.answers = [now, now, now, ended]
    code, output = run("submit", *platform.options, "--follow", now["run_id"])
    assert code == 0
    assert output.splitlines()[:-1] == ["  train: running", f"  {answers['submit_says']}", "  train: succeeded"]


@pytest.mark.parametrize("refused", ["/apis/v1beta1", "/k8s"])
def test_a_server_that_does_not_tell(platform: Platform, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """The API server alone has no events, and an account may not be allowed to read more than states: submit waits anyway."""
    monkeypatch.setattr(remote, "TOLD_AFTER_SECONDS", 0.0)
    waiting = recorded(platform.server, "secret")["run"]
    platform.server.answers = [
        waiting,
        waiting,
        {**waiting, "state": "FAILED", "run_details": task_details({"train": "FAILED"})},
    ]
    platform.server.fault = lambda _, path: (403, {}) if path.startswith(refused) else None
    code, output = run("submit", *platform.options, "--follow", waiting["run_id"])
    assert code == 1
    assert re.search(
        "a step waits for its pod; kubectl get events|kubectl -n kubeflow describe pod [a-z0-9-]+ says why", output
    )
    assert "\nFailed: train failed. The log of the step has the reason: " in output


def test_a_pod_that_has_just_been_created_is_not_told(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a reason, submit says that a pod waits only if it still does at the next time of asking."""
    monkeypatch.setattr(remote, "TOLD_AFTER_SECONDS", 0.0)
    waiting = recorded(platform.server, "secret")["run"]
    platform.server.answers = [waiting, {**waiting, "state": "SUCCEEDED", "run_details": task_details({"train": "SUCCEEDED"})}]
    platform.server.fault = lambda _, path: (403, {}) if path.startswith("/k8s") else None
    code, output = run("submit", *platform.options, "--follow", waiting["run_id"])
    assert code == 0
    assert output.splitlines()[:-1] == ["  train: running", "  train: succeeded"]


@pytest.mark.parametrize("each", MESSAGES, ids=lambda each: each["means"][:40])
def test_what_kubernetes_says(each: dict[str, Any]) -> None:
    problem = explain(POD._replace(message=each["said"]), [each["said"]])
    assert problem is not None
    assert (problem.problem, problem.lasting) == (each["means"], each["lasting"])
    assert problem.cure.endswith(".")


def test_a_workflow_without_nodes_has_no_pods() -> None:
    assert read_pods("") == read_pods('{"metadata": {}, "status": {}}') == []
