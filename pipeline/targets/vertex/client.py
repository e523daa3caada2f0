"""The client of Vertex AI Pipelines. Every request has a timeout, and nothing is submitted twice."""

from __future__ import annotations

import contextlib
import difflib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from components.common import requests
from components.common.errors import ConfigError, first_line
from components.common.requests import Failure, RemoteError, RetryingClient, no_answer
from pipeline.cron import Cron
from pipeline.graph import NAME
from pipeline.targets import remote
from pipeline.targets.remote import CompiledPipeline, PlatformSchedule, RemotePlatform, RunState, pages, read_cron

T = TypeVar("T")
EXPERIMENT_SECONDS = 120.0
CONSOLE = "https://console.cloud.google.com/vertex-ai/pipelines/locations/{region}/runs/{run}?project={project}"
MEANINGS = {
    401: "it does not accept these credentials (expired?); run gcloud auth application-default login",
    403: "this account is not allowed to do that; it needs roles/aiplatform.user, and roles/iam.serviceAccountUser on "
    "deploy.service_account",
}


class VertexClient(RemotePlatform):
    """Vertex AI Pipelines in one project and region. Raises ConfigError for an unknown region, and RemoteError."""

    def __init__(self, project: str, region: str, host: str = "") -> None:
        """`host` replaces the API endpoint of the region."""
        self._v1 = _library()
        _check_region(region)
        self.service = f"Vertex AI ({project}, {region})"
        self._project, self._region = project, region
        self._parent = f"projects/{project}/locations/{region}"
        self._client = RetryingClient(self.service, _failure, MEANINGS)
        options = {"api_endpoint": host or f"{region}-aiplatform.googleapis.com"}
        common: dict[str, Any] = {"credentials": _credentials(), "transport": "rest", "client_options": options}
        self._pipeline_client = self._v1.PipelineServiceClient(**common)
        self._schedule_client = self._v1.ScheduleServiceClient(**common)
        self._metadata_client = self._v1.MetadataServiceClient(**common)

    def submit(self, pipeline: CompiledPipeline, name: str, experiment: str) -> str:
        """Start a run and return its id, made from its unique `name`: Vertex refuses a second request for it."""
        job = self._job(pipeline, name, experiment)
        run_id = _run_id(name)

        def start() -> Any:
            create = self._pipeline_client.create_pipeline_job
            return _send(create, parent=self._parent, pipeline_job=job, pipeline_job_id=run_id)

        def find() -> Any:
            return self._call_or_none("find the run", lambda: self._get_run(run_id))

        self._client.create("start the run", start, find)
        return run_id

    def link(self, run_id: str) -> str:
        """Return the URL of a run in the user interface."""
        return CONSOLE.format(region=self._region, run=run_id, project=self._project)

    def join_experiment(self, run_id: str, experiment: str) -> str:
        """Add a run to a Vertex AI experiment, created if missing, as google-cloud-aiplatform does; return why it failed.

        The experiment then compares runs by their parameters and the Metrics of their steps. Vertex makes the run's context a
        while after the run. The run goes on if this fails.
        """
        name = _run_id(experiment)
        until = time.monotonic() + EXPERIMENT_SECONDS
        try:
            while not (
                context := self._call("find the run", lambda: self._get_run(run_id)).job_detail.pipeline_run_context.name
            ):
                if time.monotonic() >= until:
                    return f"The run is not in the experiment {name}: Vertex AI has not recorded its start."
                time.sleep(remote.POLL_SECONDS)
            store, _, _ = context.partition("/contexts/")
            self._call(f"create the experiment {name}", lambda: self._create_experiment(store, name))
            add = self._metadata_client.add_context_children
            parent = f"{store}/contexts/{name}"
            self._call("join the experiment", lambda: _send(add, context=parent, child_contexts=[context]))
        except RemoteError as error:
            return f"The run is not in the experiment {name}: {error}"
        return ""

    def _create_experiment(self, store: str, name: str) -> None:
        """Create an experiment unless it exists: a context of the type and with the metadata that Vertex AI looks for."""
        context = self._v1.Context(
            display_name=name,
            schema_title="system.Experiment",
            schema_version="0.0.1",
            metadata={"experiment_deleted": False},
        )
        from google.api_core.exceptions import Conflict

        with contextlib.suppress(Conflict):
            _send(self._metadata_client.create_context, parent=store, context=context, context_id=name)

    def create_schedule(
        self, pipeline: CompiledPipeline, name: str, experiment: str, cron: Cron, start: str | None, end: str | None
    ) -> PlatformSchedule:
        """Create a schedule: one run at a time, none queued, and no runs in place of those that were missed."""
        request = self._v1.CreatePipelineJobRequest(parent=self._parent, pipeline_job=self._job(pipeline, name, experiment))
        schedule = self._v1.Schedule(
            display_name=name,
            cron=cron.for_vertex(),
            create_pipeline_job_request=request,
            start_time=start,
            end_time=end,
            max_concurrent_run_count=1,
            allow_queueing=False,
        )

        def create() -> PlatformSchedule:
            return _scheduled(_send(self._schedule_client.create_schedule, parent=self._parent, schedule=schedule))

        return self._client.create(f"create the schedule {name}", create, lambda: self.schedule(name))

    def switch(self, schedule: PlatformSchedule, *, on: bool) -> None:
        """Resume or pause a schedule, without runs in place of those that were missed."""

        def switch() -> None:
            current = _send(self._schedule_client.get_schedule, name=schedule.schedule_id)
            if (current.state.name == "ACTIVE") == on:  # Vertex refuses to pause a paused schedule, as after a lost answer
                return
            if on:
                _send(self._schedule_client.resume_schedule, name=schedule.schedule_id, catch_up=False)
            else:
                _send(self._schedule_client.pause_schedule, name=schedule.schedule_id)

        self._call(f"{'resume' if on else 'pause'} {schedule.name}", switch)

    def _delete(self, schedule: PlatformSchedule) -> Any:
        return _send(self._schedule_client.delete_schedule, name=schedule.schedule_id)

    def _state(self, run_id: str) -> RunState:
        run = self._call("get the state of the run", lambda: self._get_run(run_id))
        tasks = {
            str(each.task_name): str(each.state.name)
            for each in run.job_detail.task_details
            if each.task_name and each.task_name != run.name.rpartition("/")[2]
        }
        return RunState(run.state.name.removeprefix("PIPELINE_STATE_"), tasks, str(run.error.message))

    def _schedules(self, name: str = "") -> Iterator[PlatformSchedule]:
        arguments = {"filter": f'display_name="{name}"'} if name else {}

        def fetch(token: str) -> tuple[list[Any], str]:
            request = self._v1.ListSchedulesRequest(parent=self._parent, page_size=100, page_token=token, **arguments)

            def first_page() -> Any:
                return next(iter(_send(self._schedule_client.list_schedules, request=request).pages))

            page = self._call("list the schedules", first_page)
            return list(page.schedules), page.next_page_token

        return (_scheduled(each) for each in pages(fetch) if "create_pipeline_job_request" in each)

    def _job(self, compiled: CompiledPipeline, name: str, experiment: str) -> Any:
        """Return the run as Vertex's message. Raises ConfigError when the config lacks a key that it needs."""
        import yaml

        deploy = compiled.config.deploy
        if not deploy.pipeline_root:
            raise ConfigError("deploy.pipeline_root is missing.", "Vertex stores the outputs there: gs://BUCKET/FOLDER.")
        runtime = self._v1.PipelineJob.RuntimeConfig(
            gcs_output_directory=deploy.pipeline_root,
            parameter_values=compiled.parameters,
            failure_policy=self._v1.PipelineFailurePolicy.PIPELINE_FAILURE_POLICY_FAIL_FAST,
        )
        return self._v1.PipelineJob(
            display_name=name,
            pipeline_spec=yaml.safe_load(compiled.file.read_text()),
            runtime_config=runtime,
            service_account=deploy.service_account,
            network=deploy.network,
            encryption_spec=self._v1.EncryptionSpec(kms_key_name=deploy.kms_key) if deploy.kms_key else None,
            labels={"pipeline": NAME, "experiment": _label(experiment)},
        )

    def _get_run(self, run_id: str) -> Any:
        return _send(self._pipeline_client.get_pipeline_job, name=f"{self._parent}/pipelineJobs/{run_id}")


def _send(method: Callable[..., T], **arguments: Any) -> T:
    """Send one request once, with a timeout: RetryingClient decides what is retried."""
    return method(**arguments, retry=None, timeout=requests.REQUEST_SECONDS)


def _label(text: str) -> str:
    """Return a text as a label of Google Cloud: at most 63 of a-z, 0-9, _ and -."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:63]


def _run_id(name: str) -> str:
    """Return a run's name as an id, which is `[a-z][-a-z0-9]{0,127}`."""
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
            f"No Google account is logged in: {first_line(error)}.",
            "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS.",
        ) from None
    return credentials


def _check_region(region: str) -> None:
    from google.cloud.aiplatform.constants.base import SUPPORTED_REGIONS

    known = sorted(set(SUPPORTED_REGIONS) - {"global"})
    if region not in known:
        similar = difflib.get_close_matches(region, known, n=3, cutoff=0.5) or ["europe-west4", "us-central1"]
        raise ConfigError(f"--region {region} is not a region of Vertex AI.", f"Use {' or '.join(similar)}, or another one.")


def _failure(error: Exception) -> Failure | None:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests import RequestException

    if isinstance(error, GoogleAPICallError):
        reason = re.sub(r"^[A-Z]+ \S+: ", "", str(error.message or "")) or f"status {error.code}"
        return Failure(int(error.code or 0), first_line(reason), dict(getattr(error.response, "headers", None) or {}))
    if isinstance(error, TransportError):
        return no_answer(error, received=False)  # no connection to the server that issues tokens
    if isinstance(error, GoogleAuthError):
        clock = "; set this machine's clock" if re.search("iat|exp|short-lived|clock", str(error)) else ""
        raise RemoteError(
            f"Google issues no token for this account: {first_line(error)}{clock}.",
            "Run gcloud auth application-default login.",
        ) from None
    if isinstance(error, (RequestException, OSError)):
        return no_answer(error, received="NewConnectionError" not in repr(error))
    return None


def _scheduled(schedule: Any) -> PlatformSchedule:
    _, separator, rest = str(schedule.cron).rpartition("TZ=")  # TZ= or CRON_TZ=
    zone, _, fields = rest.partition(" ") if separator else ("UTC", "", rest)
    cron = read_cron(fields, zone)
    on = schedule.state.name == "ACTIVE"
    words = cron.explain() if cron else str(schedule.cron)
    return PlatformSchedule(str(schedule.name), str(schedule.display_name), on, cron, words)
