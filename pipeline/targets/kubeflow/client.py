"""The client of Kubeflow Pipelines. Every request has a timeout, and nothing is submitted twice.

It uses the generated API client and not kfp.Client, which has no timeouts, retries uploads, tries a missing host for
25 seconds, and waits forever for a cancelled run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import kfp_server_api as api

from components.common import requests
from components.common.errors import ConfigError, first_line
from components.common.requests import Failure, RemoteError, RetryingClient, no_answer
from pipeline.cron import Cron
from pipeline.graph import NAME
from pipeline.targets.kubeflow.pods import DELETED, QUIET, WAITING, Pod, driver_error, event_texts, read_pods
from pipeline.targets.kubeflow.pods import explain as explain_pod
from pipeline.targets.remote import (
    CANCELLING,
    ENDED,
    Attempt,
    CompiledPipeline,
    PlatformSchedule,
    PodProblem,
    RemotePlatform,
    RunState,
    is_step,
    pages,
    read_cron,
)

DETAILS_SECONDS = 15.0  # the time limit of requests for what only explains a state
MEANINGS = {
    401: "it does not accept this token (expired?); give a new one with --token-file",
    403: "this account is not allowed to do that; it needs the role kubeflow-pipelines-edit in the namespace",
}


class KubeflowClient(RemotePlatform):
    """One Kubeflow Pipelines.

    Raises ConfigError if `host` is not one or has no namespaces although one is given, RemoteError if it cannot be reached.
    """

    where_pods_are_explained = "kubectl get events in the namespace of the run"
    runs_end_with_schedule = True  # Argo's workflows of a schedule carry an owner reference to it

    def __init__(self, host: str, *, token: Callable[[], str] = str, namespace: str = "", cluster_zone: str = "UTC") -> None:
        """Connect; `token` returns the current bearer token ("": none), `cluster_zone` is the time zone of its schedules."""
        if not host.startswith(("http://", "https://")):
            raise ConfigError(f"--host {host} is not a URL.", "Use https://HOST, or http://localhost:PORT of a port-forward.")
        self.service = host.rstrip("/")
        self._zone, self._token = cluster_zone, token
        self._namespace = {"namespace": namespace or None}
        self._client = RetryingClient(self.service, _failure, MEANINGS, self._renew_token)
        self._configuration = api.Configuration(host=self.service)
        self._configuration.retries = False  # RetryingClient decides what is retried
        self._configuration.api_key_prefix["authorization"] = "Bearer"
        self._renew_token()
        self._api = client = api.ApiClient(self._configuration)
        self._experiments, self._runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
        self._pipelines, self._uploads = api.PipelineServiceApi(client), api.PipelineUploadServiceApi(client)
        self._recurring_runs = api.RecurringRunServiceApi(client)
        try:
            health = self._call("check its health", lambda: _send(api.HealthzServiceApi(client).healthz_service_get_healthz))
        except RemoteError as error:
            if error.status not in (404, 405):
                raise
            raise ConfigError(
                f"{self.service} answers, but is not Kubeflow Pipelines: /apis/v2beta1/healthz does not exist.",
                "Give the URL of its user interface, such as https://HOST/pipeline, or of a port-forward.",
            ) from None
        if namespace and not health.multi_user:
            raise ConfigError(
                f"--namespace {namespace} has no effect: {self.service} is an installation for a single user, which runs "
                "everything in its own namespace.",
                "Omit --namespace.",
            )

    def submit(self, pipeline: CompiledPipeline, name: str, experiment: str) -> str:
        """Upload the file unless it is there, start a run of it under a unique `name`, and return the run's id."""
        body = api.V2beta1Run(display_name=name, **self._run_fields(pipeline, experiment))
        listed = functools.partial(self._runs.run_service_list_runs, experiment_id=body.experiment_id)
        run = self._client.create(
            "start the run",
            lambda: _send(self._runs.run_service_create_run, run=body),
            lambda: self._find("list the runs", listed, "runs", name),
        )
        return str(run.run_id)

    def link(self, run_id: str) -> str:
        """Return the URL of a run in the user interface."""
        return f"{self.service}/#/runs/details/{run_id}"

    def create_schedule(
        self, pipeline: CompiledPipeline, name: str, experiment: str, cron: Cron, start: str | None, end: str | None
    ) -> PlatformSchedule:
        """Create a schedule: one run at a time, and no runs in place of those that were missed."""
        trigger = api.V2beta1CronSchedule(cron=cron.for_kubeflow(self._zone), start_time=start, end_time=end)
        body = api.V2beta1RecurringRun(
            display_name=name,
            mode=api.RecurringRunMode.ENABLE,
            trigger=api.V2beta1Trigger(cron_schedule=trigger),
            max_concurrency=1,
            no_catchup=True,
            **self._run_fields(pipeline, experiment),
        )
        create = self._recurring_runs.recurring_run_service_create_recurring_run
        return self._client.create(
            f"create the schedule {name}",
            lambda: self._scheduled(_send(create, recurring_run=body)),
            lambda: self.schedule(name),
        )

    def switch(self, schedule: PlatformSchedule, *, on: bool) -> None:
        """Resume or pause a schedule; either may be repeated."""
        runs = self._recurring_runs
        switch = runs.recurring_run_service_enable_recurring_run if on else runs.recurring_run_service_disable_recurring_run
        self._call(f"{'resume' if on else 'pause'} {schedule.name}", lambda: _send(switch, schedule.schedule_id))

    def _delete(self, schedule: PlatformSchedule) -> Any:
        return _send(self._recurring_runs.recurring_run_service_delete_recurring_run, schedule.schedule_id)

    def active_runs(self, schedule: PlatformSchedule) -> list[str]:
        """Return the names of the runs of a schedule that have not ended and are not being cancelled."""
        listed = functools.partial(self._runs.run_service_list_runs, **self._namespace)
        runs = self._list(f"list the runs of {schedule.name}", listed, "runs", schedule.schedule_id, "recurring_run_id")
        return [str(run.display_name) for run in runs if run.state not in (*ENDED, *CANCELLING)]

    def _state(self, run_id: str) -> RunState:
        run = self._call("get the state of the run", lambda: _send(self._runs.run_service_get_run, run_id))
        details = getattr(run.run_details, "task_details", None) or []
        tasks, attempts = read_tasks(details)
        message = getattr(run.error, "message", "") if run.error else ""
        waits = any(each.display_name and each.state == "PENDING" for each in details)
        return RunState((run.state or "PENDING").upper(), tasks, message or "", attempts, waits=waits)

    def pod_problems(self, run_id: str) -> list[PodProblem]:
        """Return why pods of a run wait or failed, in the order in which they started, as far as Kubeflow tells."""
        answer = self._details(f"/apis/v1beta1/runs/{run_id}")
        runtime = answer.get("pipeline_runtime") if isinstance(answer, dict) else None
        problems = [explain_pod(pod, self._texts(pod)) for pod in read_pods((runtime or {}).get("workflow_manifest") or "")]
        return [problem for problem in problems if problem]

    def _texts(self, pod: Pod) -> list[str]:
        """Return what Argo, the pod's events or the log of Kubeflow's driver say about a pod."""
        where = [("podname", pod.name), ("podnamespace", pod.namespace)]
        if (pod.phase in WAITING and pod.message in QUIET) or pod.message == DELETED:
            events = self._details("/k8s/pod/events", where)
            return [*(event_texts(events.get("items") or []) if isinstance(events, dict) else []), pod.message]
        if pod.driver and "exit code" in pod.message:
            return [driver_error(str(self._details("/k8s/pod/logs", where) or "")), pod.message]
        return [pod.message]

    def _details(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
        """Return an answer, JSON or text, None if the server does not give it: what it explains is then reported without it."""
        try:
            return self._api.call_api(
                path,
                "GET",
                query_params=list(query),
                response_type="object",
                auth_settings=["Bearer"],
                _return_http_data_only=True,
                _request_timeout=(DETAILS_SECONDS, DETAILS_SECONDS),
            )
        except Exception as error:
            if _failure(error) is None:
                raise
            return None

    def _schedules(self, name: str = "") -> Iterator[PlatformSchedule]:
        listed = functools.partial(self._recurring_runs.recurring_run_service_list_recurring_runs, **self._namespace)
        return map(self._scheduled, self._list("list the schedules", listed, "recurring_runs", name))

    def _run_fields(self, compiled: CompiledPipeline, experiment: str) -> dict[str, Any]:
        """Return what a run and a schedule have in common; upload the file and create pipeline and experiment if missing."""
        create_pipeline = self._pipelines.pipeline_service_create_pipeline
        pipeline = self._find_or_create(
            "pipeline",
            NAME,
            functools.partial(self._pipelines.pipeline_service_list_pipelines, **self._namespace),
            lambda: _send(create_pipeline, pipeline=api.V2beta1Pipeline(display_name=NAME, **self._namespace)),
        )
        digest = f"spec-{hashlib.sha256(compiled.file.read_bytes()).hexdigest()[:16]}"
        upload = self._uploads.upload_pipeline_version
        version = self._find_or_create(
            "pipeline version",
            digest,
            functools.partial(self._pipelines.pipeline_service_list_pipeline_versions, pipeline.pipeline_id),
            lambda: _send(upload, str(compiled.file), name=digest, pipelineid=pipeline.pipeline_id),
        )
        create_experiment = self._experiments.experiment_service_create_experiment
        found = self._find_or_create(
            "experiment",
            experiment,
            functools.partial(self._experiments.experiment_service_list_experiments, **self._namespace),
            lambda: _send(create_experiment, experiment=api.V2beta1Experiment(display_name=experiment, **self._namespace)),
        )
        return {
            "experiment_id": found.experiment_id,
            "pipeline_version_reference": api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline.pipeline_id, pipeline_version_id=version.pipeline_version_id
            ),
            "runtime_config": api.V2beta1RuntimeConfig(parameters=dict(compiled.parameters)),
            "service_account": compiled.config.deploy.service_account or None,
        }

    def _scheduled(self, found: Any) -> PlatformSchedule:
        on = str(found.status or found.mode or "").upper().startswith("ENABLE")
        cron, words = _read_trigger(found.trigger, self._zone)
        return PlatformSchedule(str(found.recurring_run_id), str(found.display_name), on, cron, words)

    def _find_or_create(self, kind: str, name: str, listed: Callable[..., Any], create: Callable[[], Any]) -> Any:
        def find() -> Any:
            return self._find(f"list the {kind}s", listed, f"{kind.replace(' ', '_')}s", name)

        return find() or self._client.create(f"create the {kind} {name}", create, find)

    def _find(self, what: str, listed: Callable[..., Any], key: str, name: str) -> Any:
        """Return the object of this name, None if there is none."""
        return next((each for each in self._list(what, listed, key, name) if each.display_name == name), None)

    def _list(
        self, what: str, listed: Callable[..., Any], key: str, value: str = "", field: str = "display_name"
    ) -> Iterator[Any]:
        """Yield all objects, or those whose `field` has this value."""
        equals = {"operation": "EQUALS", "key": field, "stringValue": value}
        arguments = {"filter": json.dumps({"predicates": [equals]})} if value else {}

        def fetch(token: str) -> tuple[list[Any], str]:
            page = self._call(what, lambda: _send(listed, page_token=token, page_size=100, **arguments))
            return getattr(page, key) or [], page.next_page_token or ""

        return pages(fetch)

    def _renew_token(self) -> bool:
        """Read the token again; return whether it differs from the one that was refused."""
        refused, token = str(self._configuration.api_key.get("authorization", "")), self._token()
        if token:
            self._configuration.api_key["authorization"] = token
        return token != refused


def read_tasks(details: Iterable[Any]) -> tuple[dict[str, str], list[Attempt]]:
    """Return the state of each task by name, and the attempts of the step that is running, from the tasks of a run.

    The API lists the nodes of Argo's workflow (seen with Kubeflow Pipelines 2.17.0, Argo 4.0.5): a step `train` has the nodes
    train-driver, train and executor, whose state is that of their last attempt, and for each attempt train-driver(N), train(N)
    and executor(N). An executor does not tell its step, so its attempts are known only while no other step is running.
    """
    named = [each for each in details if each.display_name and each.state]  # others are entries of ML Metadata
    named.sort(key=lambda each: str(each.start_time or ""))
    tasks = {str(each.display_name): str(each.state).upper() for each in named}
    running = [each for each in named if each.state == "RUNNING" and is_step(str(each.display_name))]
    if len(running) != 1:
        return tasks, []
    (step,) = running
    attempts = []
    for each in named:
        number = re.fullmatch(r"executor\((\d+)\)", str(each.display_name))
        if number and str(each.start_time or "") >= str(step.start_time or ""):
            attempts.append(Attempt(str(step.display_name), int(number[1]) + 1, str(each.state).upper()))
    return tasks, attempts


def _send(method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Send one request once, with a timeout."""
    return method(*arguments, **named, _request_timeout=(requests.REQUEST_SECONDS, requests.REQUEST_SECONDS))


def _failure(error: Exception) -> Failure | None:
    import urllib3

    if isinstance(error, api.ApiException):
        return Failure(int(error.status or 0), _reason(error), error.headers or {})
    if isinstance(error, (urllib3.exceptions.HTTPError, OSError)):
        return no_answer(error, received=not isinstance(error, urllib3.exceptions.NewConnectionError))
    return None


def _reason(error: Any) -> str:
    """Return the server's message, else the reason phrase of the status."""
    try:
        body = json.loads(error.body or "")
        message = body.get("message") or body.get("error_message") or body.get("error")
    except (ValueError, AttributeError):
        message = ""
    return first_line(str(message or error.reason or f"status {error.status}"))


def _read_trigger(trigger: Any, zone: str) -> tuple[Cron | None, str]:
    """Return the schedule of a trigger, if this program can read it, and its description."""
    fields = str((trigger and trigger.cron_schedule and trigger.cron_schedule.cron) or "")
    if not fields:
        return None, "not a cron schedule: created by another program"
    seconds, _, rest = fields.partition(" ")
    cron = read_cron(rest, zone)
    if cron is None:
        return None, f"{fields} (six fields, seconds first)"
    return cron, cron.explain() if seconds == "0" else f"{cron.explain()}, at second {seconds}"
