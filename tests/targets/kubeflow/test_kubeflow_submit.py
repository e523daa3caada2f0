"""Submitting to and scheduling on Kubeflow: its generated client against a server on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.common import requests
from pipeline.commands.submit import unique_name
from pipeline.targets.compiled import read_compiled
from pipeline.targets.kubeflow import compiler
from tests.support.command_line import run
from tests.support.servers.kubeflow_server import Attempts
from tests.targets.platform_tests import Platform, SubmitTests

COMPILE = compiler.compile_pipeline


@pytest.mark.usefixtures("compiled_before")
class TestSubmit:
    def test_exit_code_and_output_match_the_run(self, platform: Platform) -> None:
        server = platform.server
        server.outcome = ("SUCCEEDED", {"ingest": "SUCCEEDED", "train": "SUCCEEDED"})
        code, output = platform.submit("--name", "nightly")
        assert code == 0, output
        (made,) = server.runs.values()
        assert re.fullmatch(r"nightly-\d{8}-\d{6}-[0-9a-f]{6}", made["display_name"])
        link = f"{platform.service}/#/runs/details/{made['run_id']}"
        assert output == (
            f"Run {made['display_name']}: {link}\n  ingest: succeeded\n  train: succeeded\nSucceeded: {link}\n"
        ), "and nothing else"
        assert [each["display_name"] for each in server.experiments.values()] == ["wgan-tpu-pipeline"]

    def test_steps_run_as_the_configured_account(self, platform: Platform) -> None:
        assert platform.submit("--set", "deploy.service_account=wgan")[0] == 0
        assert platform.submit()[0] == 0
        assert [each.get("service_account") for each in platform.server.runs.values()] == ["wgan", None]

    def test_the_same_file_is_uploaded_once(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiler, "compile_pipeline", COMPILE)
        server = platform.server
        for _ in range(2):
            assert platform.submit()[0] == 0
        assert platform.submit("--set", "train.rounds=30")[0] == 0
        counts = [len(things) for things in (server.experiments, server.pipelines, server.versions, server.runs)]
        assert counts == [1, 1, 2, 3]

    @pytest.mark.parametrize(
        ("state", "steps", "sentence"),
        [
            ("FAILED", {"ingest": "SUCCEEDED", "train": "FAILED"}, "Failed: train failed. The log of the step has the reason"),
            ("FAILED", {"train": ["FAILED", "FAILED"]}, "Failed: train failed. The log of the step has the reason"),
            (
                "FAILED",
                {"ingest": "SUCCEEDED", "train-driver": "FAILED", "report": "SUCCEEDED"},
                "Failed: train could not start. The log of the step's driver has the reason",
            ),
            ("CANCELED", {"train": "FAILED"}, "Cancelled"),
            ("FAILED", {}, "Failed: the platform calls the run failed. The log of the run has the reason"),
            ("SKIPPED", {}, "Failed: the platform calls the run skipped. The log of the run has the reason"),
            (
                "SUCCEEDED",
                {"train": "FAILED", "report": "SUCCEEDED"},
                "Failed, although the platform calls the run succeeded: train failed. The log of the step has the reason",
            ),
        ],
    )
    def test_a_failed_run_is_reported_as_failed(
        self, platform: Platform, state: str, steps: dict[str, Attempts], sentence: str
    ) -> None:
        """A successful exit handler never hides a failed step, and no sentence has a name of Kubeflow's own tasks."""
        platform.server.outcome = (state, steps)
        code, output = platform.submit()
        assert code == 1
        (run_id,) = platform.server.runs
        assert output.splitlines()[-1] == f"{sentence}: {platform.service}/#/runs/details/{run_id}"
        assert not re.search(r"root|exit-handler|executor|\(0\)|-driver", output)

    def test_a_namespace_is_refused_by_an_installation_without_them(self, platform: Platform) -> None:
        code, output = platform.submit("--namespace", "nobody")
        assert code == 2
        assert f"--namespace nobody has no effect: {platform.service} is an installation for a single user" in output
        assert platform.server.requests == ["GET /healthz"]
        platform.server.multi_user = True
        assert platform.submit("--namespace", "team")[0] == 0
        assert [each["namespace"] for each in platform.server.experiments.values()] == ["team"]

    def test_the_order_of_requests(self, platform: Platform) -> None:
        server = platform.server
        assert platform.submit()[0] == 0
        ids = [next(iter(each)) for each in (server.pipelines, server.runs)]
        asked = [each.replace(ids[0], "PIPELINE").replace(ids[1], "RUN") for each in server.requests]
        first = [
            "GET /healthz", "GET /pipelines", "POST /pipelines", "GET /pipelines/PIPELINE/versions",
            "POST /pipelines/upload_version", "GET /experiments", "POST /experiments", "POST /runs",
            "GET /runs/RUN", "GET /runs/RUN",
        ]  # fmt: skip
        assert asked == first
        server.requests.clear()
        assert platform.submit()[0] == 0
        assert [each for each in server.requests if each.startswith("POST")] == ["POST /runs"], "the rest is there"

    def test_a_compiled_file_is_sent_unchanged(self, platform: Platform, compiled: Path) -> None:
        code, output = run("submit", str(compiled), *platform.options)
        assert code == 0, output
        (version,) = platform.server.versions
        assert (platform.server.folder / f"{version}.yaml").read_bytes() == compiled.read_bytes()

    def test_runs_of_one_file_have_their_own_parameters(self, platform: Platform, compiled: Path) -> None:
        words = ["--rounds", "7", "--no-publish", "--set", "train.seed=3", "--set", "train.beta_1=0.5"]
        assert run("submit", str(compiled), *platform.options, *words)[0] == 0
        assert run("submit", str(compiled), *platform.options)[0] == 0
        assert [each["runtime_config"]["parameters"] for each in platform.server.runs.values()] == [
            {"rounds": 7, "seed": 3, "publish": False, "overrides": ["train.beta_1=0.5"]},
            {},
        ]
        assert len(platform.server.versions) == 1

    def test_options_of_a_config_are_compiled_into_its_file(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiler, "compile_pipeline", COMPILE)
        assert platform.submit("--batch", "32", "--image-size", "16")[0] == 0
        ((version, _),) = platform.server.versions.items()
        compiled = read_compiled(platform.server.folder / f"{version}.yaml", "kubeflow")
        assert (compiled.train.global_batch_size, compiled.ingest.image_size, compiled.train.rounds) == (32, 16, 20)


@pytest.mark.usefixtures("compiled_before")
class TestFaults(SubmitTests):
    MAKING = ("/experiments", "/pipelines", "/pipelines/upload_version", "/runs")

    @pytest.mark.parametrize("at", MAKING)
    def test_after_a_lost_answer_nothing_is_created_twice(self, platform: Platform, at: str) -> None:
        server = platform.server
        lost = iter([True])
        server.loses_answer = lambda method, path: method == "POST" and path == at and next(lost, False)
        code, output = platform.submit()
        assert code == 0, output
        assert next(lost, None) is None
        assert [len(each) for each in (server.experiments, server.pipelines, server.versions, server.runs)] == [1] * 4

    def test_an_upload_is_retried_after_a_broken_connection(self, platform: Platform) -> None:
        server = platform.server
        broken = iter([True, True])
        server.resets = lambda method, path: path == "/pipelines/upload_version" and next(broken, False)
        code, output = platform.submit()
        assert code == 0, output
        assert next(broken, None) is None
        assert [len(each) for each in (server.versions, server.runs)] == [1, 1]
        server.resets = lambda method, path: path == "/pipelines/upload_version"
        code, output = platform.submit("--set", "train.rounds=30")
        assert (code, len(server.versions)) == (0, 1), "compiled before: the version is there"

    @pytest.mark.parametrize(
        ("status", "at", "sentence"),
        [
            (401, "/healthz", "answered 401 to the request to check its health: it does not accept this token (expired?)"),
            (403, "/runs", "answered 403 to the request to start the run: this account is not allowed to do that"),
            (500, "/runs", "cannot start the run: injected by the test. Nothing was created twice; run again."),
            (400, "/pipelines/upload_version", "answered 400 to the request to create the pipeline version spec-"),
        ],
    )
    def test_permanent_errors_are_explained(self, platform: Platform, status: int, at: str, sentence: str) -> None:
        verb = "GET" if at == "/healthz" else "POST"
        platform.server.fault = lambda method, path: (status, {}) if (method, path) == (verb, at) else None
        code, output = platform.submit()
        assert code == 1
        assert f"{platform.service} {sentence}" in output
        assert not platform.server.runs
        assert sum(each == f"{verb} {at}" for each in platform.server.requests) <= requests.TRIES

    def test_an_expired_token_is_read_again(self, platform: Platform, tmp_path: Path) -> None:
        server = platform.server
        file = tmp_path / "token"
        file.write_text("first\n")
        server.token = "first"

        def expire(method: str, path: str) -> None:
            if method == "POST" and path == "/runs":
                server.token = "second"
                file.write_text("second\n")

        server.fault = expire
        code, output = platform.submit("--token-file", str(file))
        assert code == 0, output
        server.token = "third"
        code, output = platform.submit("--token-file", str(file))
        assert code == 1
        assert "it does not accept this token (expired?); give a new one with --token-file" in output

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--host", "kubeflow.example"], "--host kubeflow.example is not a URL. Use https://HOST"),
            ([], "--host is missing."),
            (["--host", "http://127.0.0.1:9", "--target", "argo"], "--target argo is unknown. Use kubeflow or vertex."),
            (["--host", "http://127.0.0.1:9", "--token-file", "/nowhere"], "--token-file /nowhere cannot be read: "),
        ],
    )
    def test_invalid_options_are_usage_errors(self, platform: Platform, words: list[str], sentence: str) -> None:
        code, output = run("submit", str(platform.config), *words)
        assert code == 2
        assert sentence in output

    def test_an_unsuitable_config_is_refused_before_any_request(self, platform: Platform) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiler, "compile_pipeline", COMPILE)
            code, output = run("submit", str(platform.config), "--host", "http://127.0.0.1:9", "--set", "run.dir=runs")
        assert code == 2
        assert "run.dir = 'runs' is not a URL, nor a path at which Kubeflow can mount a volume." in output

    def test_unsuitable_files_are_refused(self, platform: Platform, compiled: Path, tmp_path: Path) -> None:
        for words, sentence in [
            (["--target", "vertex"], "was compiled for kubeflow, but --target is vertex. Use --target kubeflow, or compile"),
            (
                ["--rounds", "0"],
                "(--set train.rounds=0) is invalid: train.rounds = 0: input should be greater than or equal to 1.",
            ),
            (["--set", "train.round=3"], "train.round: unknown key; did you mean rounds?"),
            (["--set", "deploy.cpu=4"], "deploy.cpu = '4' cannot be set for a run of a compiled pipeline, which was"),
        ]:
            code, output = run("submit", str(compiled), *platform.options, "--project", "p", "--region", "europe-west4", *words)
            assert code == 2
            assert sentence in output
        (tmp_path / "other.yaml").write_text("a: 1\n")
        for name, sentence in [("other.yaml", "is not a compiled pipeline of this program"), ("none.yaml", "There is no file")]:
            code, output = run("submit", str(tmp_path / name), *platform.options)
            assert code == 2
            assert sentence in output
        assert platform.server.requests == []

    def test_a_host_that_is_not_kubeflow_is_refused(self, platform: Platform) -> None:
        code, output = run("submit", str(platform.config), "--host", f"{platform.service}/elsewhere")
        assert code == 2
        assert "answers, but is not Kubeflow Pipelines" in output


def test_run_names_are_unique() -> None:
    assert unique_name("") != unique_name("")
