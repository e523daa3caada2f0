"""Why pods wait or fail, in submit's words: from answers of a real Kubeflow Pipelines, recorded in pods/.

Each file has, of one run, the state (v2beta1), Argo's workflow (v1beta1) and the events that KFP's user interface gave for its
pods, with the versions. Fields that nothing reads are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.targets import remote
from pipeline.targets.kubeflow.pods import Pod, explain, read_pods
from tests.support.command_line import run
from tests.support.servers.kubeflow_server import Kubeflow

PODS = Path(__file__).parent / "pods"
POD = Pod("train", 1, False, "Pending", "", "a-pod", "kubeflow", "registry/image:1", "4Gi")


def recorded(server: Kubeflow, case: str) -> dict[str, Any]:
    """Make the server answer as the real one did in this case; return the answers."""
    answers: dict[str, Any] = json.loads((PODS / f"{case}.json").read_bytes())
    server.runs[answers["run"]["run_id"]] = {}
    server.answers = [answers["run"]]
    server.workflow, server.events, server.logs = answers["workflow"], answers["events"], answers["logs"]
    return answers


def follow(served: tuple[str, Kubeflow], case: str) -> tuple[int, list[str]]:
    run_id = recorded(served[1], case)["run"]["run_id"]
    code, output = run("submit", "--host", served[0], "--follow", run_id)
    link = f"{served[0]}/#/runs/details/{run_id}"
    return code, [line.replace(link, "LINK") for line in output.splitlines()]


MESSAGES = [each for key in ("seen", "by_source") for each in json.loads((PODS / "messages.json").read_bytes())[key]]
WAITING = {}
FAILED = {}


@pytest.mark.parametrize("case", WAITING)
def test_a_pod_that_waits(served: tuple[str, Kubeflow], monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(remote, "TOLD_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(remote, "GIVEN_UP_AFTER_SECONDS", 0.05)
    problem, lasting = WAITING[case]
    if not lasting:
        recorded(served[1], case)
    code, output = follow(served, case)
    assert code == 1
    assert output == [
        "  train: running",
        f"  {problem}",
        f"Not waited for any longer: {problem} The run, which goes on then: LINK",
    ]


@pytest.mark.parametrize("each", MESSAGES, ids=lambda each: each["means"][:40])
def test_what_kubernetes_says(each: dict[str, Any]) -> None:
    problem = explain(POD._replace(message=each["said"]), [each["said"]])
    assert problem is not None
    assert (problem.problem, problem.lasting) == (each["means"], each["lasting"])
    assert problem.cure.endswith(".")


def test_a_workflow_without_nodes_has_no_pods() -> None:
    assert read_pods("") == read_pods('{"metadata": {}, "status": {}}') == []
