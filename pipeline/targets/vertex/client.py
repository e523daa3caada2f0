"""Submitting to Vertex AI Pipelines: every request bounded, nothing submitted twice, and the run's real state at the end."""

from __future__ import annotations

import difflib
import functools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from components.common import requests
from components.common.errors import ConfigError, first_line
from components.common.requests import Failure, RemoteError, RetryingClient, no_answer
from pipeline.config import RunConfig
from pipeline.cron import Cron, parse_cron
from pipeline.graph import NAME
from pipeline.targets import runs
from pipeline.targets.runs import Outcome, Scheduled, Submitted, ended_with, is_step

T = TypeVar("T")
CONSOLE = "https://console.cloud.google.com/vertex-ai/pipelines/locations/{region}/runs/{run}?project={project}"
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
MEANINGS = {
    401: "it does not take these credentials (expired?); run gcloud auth application-default login",
    403: "this account may not do that; it needs roles/aiplatform.user, and roles/iam.serviceAccountUser on "
    "deploy.service_account",
}
CLOCK = "set this machine's clock"  # what a refused signature is about, whose time is the clock's


class Vertex:
    """Vertex AI Pipelines in one project and region. Raises ConfigError for a region there is none of, and RemoteError."""

    def __init__(self, project: str, region: str, host: str = "") -> None:
        """`host` is the API's endpoint, where it is not the region's own."""
        self._v1 = _library()
        _check_region(region)
        self._credentials = _credentials()
        self.place = f"Vertex AI ({project}, {region})"
        self._project, self._region = project, region
        self._parent = f"projects/{project}/locations/{region}"
        self._client = RetryingClient(self.place, _failure, MEANINGS)
        options = {"api_endpoint": host or f"{region}-aiplatform.googleapis.com"}
        about: dict[str, Any] = {"credentials": self._credentials, "transport": "rest", "client_options": options}
        self._runs = self._v1.PipelineServiceClient(**about)
        self._schedules = self._v1.ScheduleServiceClient(**about)

    def submit(self, file: Path, name: str, experiment: str, config: RunConfig) -> Submitted:
        """Start a run of `file`; `name` must be of this run alone: it is its id, so a second request makes no second run."""
        job = self._job(file, name, experiment, config)
        run_id = _run_id(name)
        path = f"{self._parent}/pipelineJobs/{run_id}"

        def start() -> Any:
            return self._call(self._runs.create_pipeline_job, parent=self._parent, pipeline_job=job, pipeline_job_id=run_id)

        def started() -> Any:
            return self._or_none("find the run", lambda: self._call(self._runs.get_pipeline_job, name=path))

        return self._submitted(self._client.create("start the run", start, started))

    def wait(self, run_id: str, tell: Callable[[str], None]) -> Outcome:
        """Wait until a run has ended and return how; `tell` gets a line for each step whose state changes."""
        path = f"{self._parent}/pipelineJobs/{run_id}"
        seen: dict[str, str] = {}
        while True:
            run = self._client.call("get the state of the run", lambda: self._call(self._runs.get_pipeline_job, name=path))
            for step, state in _steps(run):
                if seen.get(step) != state:
                    seen[step] = state
                    if is_step(step):
                        tell(f"{step}: {state.lower()}")
            state = run.state.name.removeprefix("PIPELINE_STATE_")
            if state in ENDED:
                return ended_with(state, seen, str(run.error.message))
            time.sleep(runs.POLL_SECONDS)

    def get(self, run_id: str) -> Submitted:
        """Return a run by its id."""
        path = f"{self._parent}/pipelineJobs/{run_id}"
        return self._submitted(self._client.call("find the run", lambda: self._call(self._runs.get_pipeline_job, name=path)))

    def schedule(self, name: str) -> Scheduled | None:
        """Return the schedule of a name, None where there is none."""
        found = self._listed(filter=f'display_name="{name}"')
        return next((_scheduled(each) for each in found if each.display_name == name), None)

    def schedules(self) -> list[Scheduled]:
        """Return all schedules of this pipeline's kind: those that start runs."""
        return [_scheduled(each) for each in self._listed()]

    def make_schedule(
        self, file: Path, name: str, experiment: str, config: RunConfig, cron: Cron, start: str | None, end: str | None
    ) -> Scheduled:
        """Make a schedule: one run at a time, none queued behind it, and none made up for those that were missed."""
        request = self._v1.CreatePipelineJobRequest(parent=self._parent, pipeline_job=self._job(file, name, experiment, config))
        schedule = self._v1.Schedule(
            display_name=name,
            cron=cron.for_vertex(),
            create_pipeline_job_request=request,
            start_time=start,
            end_time=end,
            max_concurrent_run_count=1,
            allow_queueing=False,
        )

        def make() -> Scheduled | None:
            return _scheduled(self._call(self._schedules.create_schedule, parent=self._parent, schedule=schedule))

        made = self._client.create(f"make the schedule {name}", make, lambda: self.schedule(name))
        assert made is not None
        return made

    def switch(self, schedule: Scheduled, *, on: bool) -> None:
        """Resume or pause a schedule; what was missed is not made up for. One that has what is asked for is left alone."""

        def switch() -> None:
            now = self._call(self._schedules.get_schedule, name=schedule.schedule_id)
            if (now.state.name == "ACTIVE") == on:  # Vertex refuses to pause what is paused, as after an answer that was lost
                return
            if on:
                self._call(self._schedules.resume_schedule, name=schedule.schedule_id, catch_up=False)
            else:
                self._call(self._schedules.pause_schedule, name=schedule.schedule_id)

        self._client.call(f"{'resume' if on else 'pause'} {schedule.name}", switch)

    def delete_schedule(self, schedule: Scheduled) -> None:
        """Remove a schedule; its runs stay."""

        def delete() -> Any:
            return self._call(self._schedules.delete_schedule, name=schedule.schedule_id)

        self._or_none(f"delete {schedule.name}", delete)  # none: an earlier try, whose answer was lost, has done it

    def _job(self, file: Path, name: str, experiment: str, config: RunConfig) -> Any:
        """Return the run as Vertex takes it. Raises ConfigError when the config lacks what it needs."""
        import yaml

        deploy = config.deploy
        if not deploy.pipeline_root:
            raise ConfigError("deploy.pipeline_root is missing.", "Vertex keeps what steps make there: gs://BUCKET/FOLDER.")
        runtime = self._v1.PipelineJob.RuntimeConfig(
            gcs_output_directory=deploy.pipeline_root,
            failure_policy=self._v1.PipelineFailurePolicy.PIPELINE_FAILURE_POLICY_FAIL_FAST,
        )
        return self._v1.PipelineJob(
            display_name=name,
            pipeline_spec=yaml.safe_load(file.read_text()),
            runtime_config=runtime,
            service_account=deploy.service_account,
            network=deploy.network,
            encryption_spec=self._v1.EncryptionSpec(kms_key_name=deploy.kms_key) if deploy.kms_key else None,
            labels={"pipeline": NAME, "experiment": label(experiment)},
        )

    def _listed(self, **asked: Any) -> Iterator[Any]:
        token = ""
        while True:
            request = self._v1.ListSchedulesRequest(parent=self._parent, page_size=100, page_token=token, **asked)
            page = self._client.call("list the schedules", functools.partial(self._page, request))
            yield from (each for each in page.schedules if "create_pipeline_job_request" in each)
            token = page.next_page_token
            if not token:
                return

    def _page(self, request: Any) -> Any:
        return next(iter(self._call(self._schedules.list_schedules, request=request).pages))

    def _call(self, method: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Send one request once, for a limited time: what may be repeated is decided by RetryingClient."""
        return method(*arguments, **named, retry=None, timeout=requests.REQUEST_SECONDS)

    def _or_none(self, what: str, call: Callable[[], T]) -> T | None:
        try:
            return self._client.call(what, call)
        except RemoteError as error:
            if error.status != 404:
                raise
            return None

    def _submitted(self, job: Any) -> Submitted:
        run_id = str(job.name).rpartition("/")[2]
        link = CONSOLE.format(region=self._region, run=run_id, project=self._project)
        return Submitted(run_id, str(job.display_name), link)


def label(text: str) -> str:
    """Return a text as Google Cloud takes it for a label: at most 63 of a-z, 0-9, _ and -."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:63]


def _run_id(name: str) -> str:
    """Return a run's name as its id, which is `[a-z][-a-z0-9]{0,127}`."""
    text = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    return (text if re.match("[a-z]", text) else f"run-{text}")[-128:].lstrip("-0123456789")


def _library() -> Any:
    try:
        from google.cloud import aiplatform_v1
    except ImportError:
        raise ConfigError("google-cloud-aiplatform is not installed.", "Install wgan-tpu-pipeline[vertex].") from None
    return aiplatform_v1


def _credentials() -> Any:
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except GoogleAuthError as error:
        raise RemoteError(
            f"There is no Google account to ask Vertex with: {first_line(error)}.",
            "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS.",
        ) from None
    return credentials


def _check_region(region: str) -> None:
    from google.cloud.aiplatform.constants.base import SUPPORTED_REGIONS

    known = sorted(set(SUPPORTED_REGIONS) - {"global"})
    if region in known:
        return
    near = difflib.get_close_matches(region, known, n=3, cutoff=0.5) or ["europe-west4", "us-central1"]
    raise ConfigError(f"--region {region} is no region of Vertex AI.", f"Use {' or '.join(near)}, or another one.")


def _failure(error: Exception) -> Failure | None:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests import RequestException

    if isinstance(error, GoogleAPICallError):
        response = error.response
        lines = re.sub(r"^[A-Z]+ \S+: ", "", str(error.message or "")).splitlines() or [f"status {error.code}"]
        return Failure(int(error.code or 0), lines[0].rstrip("."), dict(getattr(response, "headers", None) or {}))
    if isinstance(error, TransportError):
        return no_answer(error, received=False)  # it was to fetch a token that nobody was reached
    if isinstance(error, GoogleAuthError):
        cure = f"; {CLOCK}" if re.search("iat|exp|short-lived|clock", str(error)) else ""
        raise RemoteError(
            f"Google gives this account no token: {first_line(error)}{cure}.", "Run gcloud auth application-default login."
        ) from None
    if isinstance(error, (RequestException, OSError)):
        return no_answer(error, received="NewConnectionError" not in repr(error))
    return None


def _steps(run: Any) -> Iterator[tuple[str, str]]:
    for each in run.job_detail.task_details:
        if each.task_name and each.task_name != run.name.rpartition("/")[2]:
            yield str(each.task_name), str(each.state.name)


def _scheduled(schedule: Any) -> Scheduled:
    zone, _, fields = (
        schedule.cron.rpartition("TZ=")[2].partition(" ") if "TZ=" in schedule.cron else ("UTC", "", schedule.cron)
    )
    try:
        cron = parse_cron(fields, zone)
    except ConfigError:
        cron = None
    on = schedule.state.name == "ACTIVE"
    return Scheduled(str(schedule.name), str(schedule.display_name), on, cron, cron.explain() if cron else str(schedule.cron))
