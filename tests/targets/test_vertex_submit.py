"""Submitting to and scheduling on Vertex AI: google-cloud-aiplatform against a server on this machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.oauth2.credentials import Credentials

from components.common import requests
from pipeline.config import load_config
from pipeline.targets import remote
from pipeline.targets.vertex import client, compiler
from tests.support.command_line import run
from tests.support.servers.vertex_runs import STORE, runs_served
from tests.support.servers.vertex_server import TOKEN, content
from tests.targets.platform_tests import Platform, ScheduleTests, SubmitTests

COMPILE = compiler.compile_pipeline
CONFIG = """
[run]
dir = "/gcs/bucket/wgan"
[deploy]
pipeline_root = "gs://bucket/root"
service_account = "wgan@p.iam.gserviceaccount.com"
network = "projects/1/global/networks/n"
kms_key = "projects/p/locations/europe-west4/keyRings/r/cryptoKeys/k"
"""


class Renewed(Credentials):
    """Credentials that take each new token from a list."""

    def __init__(self, first: str, *others: str | Exception) -> None:
        super().__init__(first)
        self.others = list(others)

    def refresh(self, request: Any) -> None:
        token = self.others.pop(0) if self.others else self.token
        if isinstance(token, Exception):
            raise token
        self.token = token


def log_in(monkeypatch: pytest.MonkeyPatch, credentials: Credentials) -> None:
    monkeypatch.setattr(google.auth, "default", lambda **_: (credentials, "p"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled file for the tests of requests."""
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.compile_pipeline(load_config(None, ["run.dir=/gcs/bucket/wgan"]), file)
    return file


@pytest.fixture
def compiled_before(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "compile_pipeline", lambda _, file: shutil.copy(compiled, file))


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    (tmp_path / "c.toml").write_text(CONFIG)
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(requests, "FIRST_WAIT_SECONDS", 0.01)
    log_in(monkeypatch, Renewed(TOKEN))
    with runs_served() as (address, runs):
        options = ["--target", "vertex", "--project", "p", "--region", "europe-west4", "--host", address]
        yield Platform(runs, "Vertex AI (p, europe-west4)", options, tmp_path / "c.toml", TOKEN, [])


@pytest.mark.usefixtures("compiled_before")
class TestSubmit:
    def test_exit_code_and_output_match_the_run(self, platform: Platform) -> None:
        server = platform.server
        server.outcome = ("SUCCEEDED", {"ingest": "SUCCEEDED", "train": "SUCCEEDED"}, "")
        code, output = platform.submit("--name", "Nightly Run", "--experiment", "Faces 64")
        assert code == 0, output
        (job,) = server.jobs.values()
        run_id = job.name.rpartition("/")[2]
        assert re.fullmatch(r"nightly-run-\d{8}-\d{6}-[0-9a-f]{6}", run_id)
        link = f"https://console.cloud.google.com/vertex-ai/pipelines/locations/europe-west4/runs/{run_id}?project=p"
        assert output == (f"Run {job.display_name}: {link}\n  ingest: succeeded\n  train: succeeded\nSucceeded: {link}\n")
        assert job.runtime_config.gcs_output_directory == "gs://bucket/root"
        assert job.runtime_config.failure_policy.name == "PIPELINE_FAILURE_POLICY_FAIL_FAST"
        assert job.service_account == "wgan@p.iam.gserviceaccount.com"
        assert job.network == "projects/1/global/networks/n"
        assert job.encryption_spec.kms_key_name.endswith("/cryptoKeys/k")
        assert dict(job.labels) == {"pipeline": "wgan-tpu-pipeline", "experiment": "faces-64"}

    def test_a_failed_run_is_reported_with_its_message(self, platform: Platform) -> None:
        platform.server.outcome = (
            "FAILED",
            {"ingest": "SUCCEEDED", "tpu-check": "FAILED", "exit-handler-1": "FAILED"},
            "quota\nmore",
        )
        code, output = platform.submit()
        assert code == 1
        assert "Failed: tpu-check failed: quota. The log of the step has the reason: " in output

    def test_the_order_of_requests(self, platform: Platform) -> None:
        assert platform.submit()[0] == 0
        (name,) = platform.server.jobs
        parent = "projects/p/locations/europe-west4"
        run_id = name.rpartition("/")[2]
        get = f"GET {parent}/pipelineJobs/{run_id}"
        contexts = f"{parent.replace('/p/', '/123456/')}/metadataStores/default/contexts"
        join = [get, f"POST {contexts}", f"POST {contexts}/wgan-tpu-pipeline:addContextChildren"]
        assert platform.server.requests == [f"POST {parent}/pipelineJobs", *join, get]

    def test_runs_join_an_experiment(self, platform: Platform) -> None:
        for _ in range(2):
            assert platform.submit("--experiment", "Faces 64")[0] == 0
        runs = [f"{STORE}/contexts/{job.rpartition('/')[2]}" for job in platform.server.jobs]
        assert platform.server.experiments == {"faces-64": runs}

    def test_a_run_goes_on_without_its_experiment(self, platform: Platform) -> None:
        platform.server.fault = lambda _, path: (403, {}) if "contexts" in path else None
        code, output = platform.submit()
        assert code == 0
        assert "\n  The run is not in the experiment wgan-tpu-pipeline: Vertex AI (p, europe-west4) answered 403" in output

    def test_a_compiled_file_is_sent_unchanged(self, platform: Platform, tmp_path: Path) -> None:
        file = tmp_path / "p.yaml"
        COMPILE(load_config(platform.config), file)
        code, output = run("submit", str(file), *platform.options)
        assert code == 0, output
        (job,) = platform.server.jobs.values()
        assert job.runtime_config.gcs_output_directory == "gs://bucket/root", "of the config that it was compiled from"
        words = ["--rounds", "7", "--no-publish", "--set", "train.beta_1=0.5"]
        code, output = run("submit", str(file), *platform.options, *words)
        assert code == 0, output
        given = [content(each)["runtimeConfig"].get("parameterValues", {}) for each in platform.server.jobs.values()]
        assert given == [{}, {"rounds": 7, "publish": False, "overrides": ["train.beta_1=0.5"]}]
        words = ["--cron", "0 2 * * *", "--name", "n", "--rounds", "7"]
        assert platform.schedule("create", str(file), *words)[0] == 0
        (made,) = platform.server.schedules.values()
        assert dict(made.create_pipeline_job_request.pipeline_job.runtime_config.parameter_values) == {"rounds": 7}
        code, output = run("submit", str(file), "--host", "http://127.0.0.1:9", "--target", "kubeflow")
        assert code == 2
        assert "was compiled for vertex, but --target is kubeflow." in output

    def test_the_request_contains_the_compiled_file(self, platform: Platform, compiled: Path) -> None:
        import yaml

        assert platform.submit()[0] == 0
        (job,) = platform.server.jobs.values()
        assert content(job)["pipelineSpec"] == yaml.safe_load(compiled.read_text())


@pytest.mark.usefixtures("compiled_before")
class TestFaults(SubmitTests):
    def test_after_a_lost_answer_nothing_is_created_twice(self, platform: Platform) -> None:
        server = platform.server
        lost = iter([True])
        server.loses_answer = lambda method, path: method == "POST" and next(lost, False)
        code, output = platform.submit()
        assert code == 0, output
        assert next(lost, None) is None
        assert len(server.jobs) == 1

    def test_a_request_is_retried_after_a_broken_connection(self, platform: Platform) -> None:
        server = platform.server
        broken = iter([True, True])
        server.resets = lambda method, _: method == "POST" and next(broken, False)
        code, output = platform.submit()
        assert code == 0, output
        assert next(broken, None) is None
        assert len(server.jobs) == 1

    @pytest.mark.parametrize(
        ("status", "sentence"),
        [
            (
                401,
                "answered 401 to the request to start the run: it does not accept these credentials (expired?); run gcloud",
            ),
            (
                403,
                "answered 403 to the request to start the run: this account is not allowed to do that; it needs roles/",
            ),
            (409, "cannot start the run: injected by the test. Nothing was created twice; run again."),
            (400, "answered 400 to the request to start the run: injected by the test."),
        ],
    )
    def test_permanent_errors_are_explained(self, platform: Platform, status: int, sentence: str) -> None:
        platform.server.fault = lambda method, path: (status, {}) if method == "POST" else None
        code, output = platform.submit()
        assert code == 1
        assert f"Vertex AI (p, europe-west4) {sentence}" in output
        assert not platform.server.jobs
        assert sum(each.startswith("POST") for each in platform.server.requests) <= requests.TRIES

    def test_an_expired_token_is_fetched_again(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        log_in(monkeypatch, Renewed("expired", TOKEN))
        code, output = platform.submit()
        assert code == 0, output
        assert "expired" not in output

    @pytest.mark.parametrize(
        ("error", "sentence"),
        [
            (
                RefreshError("invalid_grant: Token has been expired or revoked."),
                "Google issues no token for this account: invalid_grant: ",
            ),
            (
                RefreshError("invalid_grant: Invalid JWT: Token must be a short-lived token: check your iat and exp values"),
                "iat and exp values; set this machine's clock. Run gcloud auth application-default login.",
            ),
        ],
    )
    def test_an_account_without_token_is_reported(
        self, platform: Platform, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
    ) -> None:
        log_in(monkeypatch, Renewed("expired", error))
        code, output = platform.submit()
        assert code == 1
        assert sentence in output

    def test_a_missing_login_is_reported(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody(**_: Any) -> Any:
            raise DefaultCredentialsError("Your default credentials were not found.")

        monkeypatch.setattr(google.auth, "default", nobody)
        code, output = platform.submit()
        assert code == 1
        assert "No Google account is logged in: Your default credentials were not found." in output

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--region", ""], "--region is missing. Vertex needs --project"),
            (["--project", ""], "--project is missing. Vertex needs --project"),
            (["--region", "europe-west44"], "--region europe-west44 is not a region of Vertex AI. Use europe-west4 or "),
            (["--region", "global"], "--region global is not a region of Vertex AI."),
            (["--set", "deploy.pipeline_root="], "deploy.pipeline_root is missing."),
        ],
    )
    def test_invalid_options_are_usage_errors(self, platform: Platform, words: list[str], sentence: str) -> None:
        code, output = platform.submit(*words)
        assert code == 2
        assert sentence in output
        assert platform.server.requests == []


@pytest.mark.usefixtures("compiled_before")
class TestSchedule(ScheduleTests):
    def test_the_request(self, platform: Platform) -> None:
        code, output = platform.create("weekly", "--time-zone", "Europe/Zurich", cron="30 2 * * mon")
        assert code == 0, output
        assert output.startswith("Schedule weekly: At 02:30 on Monday, Europe/Zurich time.\n")
        (made,) = platform.server.schedules.values()
        assert made.cron == "TZ=Europe/Zurich 30 2 * * 1", "Vertex's five fields, with the zone"
        assert (made.max_concurrent_run_count, made.allow_queueing, made.catch_up) == (1, False, False)
        request = made.create_pipeline_job_request
        assert request.parent == "projects/p/locations/europe-west4"
        assert request.pipeline_job.runtime_config.gcs_output_directory == "gs://bucket/root"
        assert request.pipeline_job.service_account == "wgan@p.iam.gserviceaccount.com"

    def test_start_and_end(self, platform: Platform) -> None:
        assert platform.create("n", "--start", "2099-01-01T00:00", "--end", "2099-02-01T00:00+01:00")[0] == 0
        (made,) = platform.server.schedules.values()
        assert made.start_time.isoformat() == "2099-01-01T00:00:00+00:00"
        assert made.end_time.isoformat() == "2099-01-31T23:00:00+00:00"

    def test_schedules_of_other_programs_are_listed_as_they_are(self, platform: Platform) -> None:
        platform.create("n")
        (made,) = platform.server.schedules.values()
        made.cron = "0 9 * * 1-5"
        assert "At 09:00 on Monday through Friday, UTC time" in platform.schedule("list")[1]
        made.cron = "0 9 ? * MON#1"
        assert "0 9 ? * MON#1" in platform.schedule("list")[1]


def test_an_unsuitable_config_is_refused_before_any_request(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = platform.submit("--set", "run.dir=runs")
    assert code == 2
    assert "run.dir = 'runs' is not in /gcs/BUCKET, and Vertex AI mounts nothing else." in output
    assert platform.server.requests == []


def test_a_missing_library_is_reported_with_the_extra_to_install(
    platform: Platform, compiled_before: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "google.cloud.aiplatform_v1", None)
    monkeypatch.delattr("google.cloud.aiplatform_v1")
    code, output = platform.submit()
    assert code == 2
    assert "Install wgan-tpu-pipeline[vertex]." in output


@pytest.mark.parametrize(("name", "expected"), [("run-1", "run-1"), ("1 Nacht", "run-1-nacht"), ("x" * 200, "x" * 128)])
def test_run_ids_are_made_from_names(name: str, expected: str) -> None:
    assert client._run_id(name) == expected
