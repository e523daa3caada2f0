"""Submitting to Kubeflow Pipelines: every request bounded, nothing submitted twice, and the run's real state at the end."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from components.common import requests
from components.common.errors import ConfigError
from components.common.requests import Failure, RemoteError, RetryingClient, no_answer
from pipeline.config import RunConfig
from pipeline.cron import Cron, parse_cron
from pipeline.graph import NAME
from pipeline.targets import runs
from pipeline.targets.runs import Outcome, Scheduled, Submitted, ended_with, is_step

T = TypeVar("T")
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
MEANINGS = {
    401: "it does not take this token (expired?); give a fresh one with --token-file",
    403: "this account may not do that; ask for the role kubeflow-pipelines-edit in the namespace",
}


class Kubeflow:
    """One Kubeflow Pipelines. Raises ConfigError when `host` is none, RemoteError when it cannot be asked."""

    def __init__(self, host: str, *, token: Callable[[], str] = str, namespace: str = "", cluster_zone: str = "UTC") -> None:
        """`token` gives the bearer token, and a fresh one when it is asked again; empty: none is sent.

        `cluster_zone` is the time zone in which this Kubeflow reads every schedule.
        """
        if not host.startswith(("http://", "https://")):
            raise ConfigError(f"--host {host} is no address.", "Use https://HOST, or http://localhost:PORT of a port-forward.")
        self.place = host.rstrip("/")
        self._zone = cluster_zone
        self._token, self._sent = token, token()
        self._client = RetryingClient(self.place, _failure, MEANINGS, self._token_is_fresh)
        self._inside = {"namespace": namespace or None}
        try:
            self._kfp: Any = self._ask("check its health", lambda: _bounded_client(self.place, self._sent, namespace))
        except RemoteError as error:
            if error.status not in (404, 405):
                raise
            raise ConfigError(
                f"{self.place} answers, but is no Kubeflow Pipelines: /apis/v2beta1/healthz is not there.",
                "Name the address of its user interface, such as https://HOST/pipeline or a port-forward's.",
            ) from None
        self._configuration = self._kfp._run_api.api_client.configuration

    def submit(self, file: Path, name: str, experiment: str, config: RunConfig) -> Submitted:
        """Upload `file` if it is not there, and start a run of it; `name` must be of this run alone."""
        version = self._version(NAME, file)
        return self._run(self._experiment(experiment), name, version, config.deploy.service_account or None)

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, made if there is none of this name."""

        def find() -> Any:
            return self._find("list the experiments", self._kfp.list_experiments, "experiments", name, **self._inside)

        import kfp_server_api

        body = kfp_server_api.V2beta1Experiment(display_name=name, **self._inside)
        create = self._kfp._experiment_api.experiment_service_create_experiment
        found = find() or self._make(f"make the experiment {name}", lambda: create(experiment=body), find)
        return str(found.experiment_id)

    def _version(self, name: str, file: Path) -> tuple[str, str]:
        """Return the ids of pipeline `name` and of its version with this very file, uploaded if it is not there."""
        import kfp_server_api

        def pipeline() -> Any:
            return self._find("list the pipelines", self._kfp.list_pipelines, "pipelines", name, **self._inside)

        body = kfp_server_api.V2beta1Pipeline(display_name=name, **self._inside)
        create = self._kfp._pipelines_api.pipeline_service_create_pipeline
        found = pipeline() or self._make(f"make the pipeline {name}", lambda: create(pipeline=body), pipeline)
        pipeline_id = str(found.pipeline_id)
        digest = f"spec-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"

        def version() -> Any:
            def listed(**asked: Any) -> Any:
                return self._kfp.list_pipeline_versions(pipeline_id, **asked)

            return self._find("list the pipeline's versions", listed, "pipeline_versions", digest)

        found = version() or self._make(
            "upload the pipeline",
            lambda: self._kfp.upload_pipeline_version(str(file), pipeline_version_name=digest, pipeline_id=pipeline_id),
            version,
        )
        return pipeline_id, str(found.pipeline_version_id)

    def _run(self, experiment_id: str, name: str, version: tuple[str, str], service_account: str | None) -> Submitted:
        """Start a run; `name` must be of this run alone, since a request whose answer is lost is looked for by it."""

        def start() -> Any:
            ids = {"pipeline_id": version[0], "version_id": version[1]}
            return self._kfp.run_pipeline(experiment_id=experiment_id, job_name=name, service_account=service_account, **ids)

        def started() -> Any:
            return self._find("list the runs", self._kfp.list_runs, "runs", name, experiment_id=experiment_id)

        return self._submitted(self._make("start the run", start, started))

    def wait(self, run_id: str, tell: Callable[[str], None]) -> Outcome:
        """Wait until a run has ended and return how; `tell` gets a line for each step whose state changes.

        A run that is cancelled has ended too (kfp's own wait_for_run_completion waits for it for ever).
        """
        seen: dict[str, str] = {}
        while True:
            run = self._ask("get the state of the run", lambda: self._kfp.get_run(run_id))
            for name, state in _steps(run):
                if seen.get(name) != state:
                    seen[name] = state
                    if is_step(name):
                        tell(f"{name}: {state.lower()}")
            state = (run.state or "PENDING").upper()
            if state in ENDED:
                message = getattr(run.error, "message", "") if run.error else ""
                return ended_with(state, seen, message or "")
            time.sleep(runs.POLL_SECONDS)

    def get(self, run_id: str) -> Submitted:
        """Return a run by its id."""
        return self._submitted(self._ask("find the run", lambda: self._kfp.get_run(run_id)))

    def schedule(self, name: str) -> Scheduled | None:
        """Return the schedule of a name, None where there is none."""
        found = self._find("list the schedules", self._kfp.list_recurring_runs, "recurring_runs", name, **self._inside)
        return None if found is None else self._scheduled(found)

    def schedules(self) -> list[Scheduled]:
        """Return all schedules."""
        found = self._pages("list the schedules", self._kfp.list_recurring_runs, "recurring_runs", **self._inside)
        return [self._scheduled(each) for each in found]

    def make_schedule(
        self, file: Path, name: str, experiment: str, config: RunConfig, cron: Cron, start: str | None, end: str | None
    ) -> Scheduled:
        """Make a schedule of six fields: one run at a time, and none made up for those that were missed."""
        pipeline_id, version_id = self._version(NAME, file)
        experiment_id = self._experiment(experiment)

        def make() -> Scheduled | None:
            made = self._kfp.create_recurring_run(
                experiment_id=experiment_id,
                job_name=name,
                cron_expression=cron.for_kubeflow(self._zone),
                start_time=start,
                end_time=end,
                max_concurrency=1,
                no_catchup=True,
                service_account=config.deploy.service_account or None,
                pipeline_id=pipeline_id,
                version_id=version_id,
            )
            return self._scheduled(made)

        made = self._make(f"make the schedule {name}", make, lambda: self.schedule(name))
        assert made is not None
        return made

    def switch(self, schedule: Scheduled, *, on: bool) -> None:
        """Resume or pause a schedule."""
        switch = self._kfp.enable_recurring_run if on else self._kfp.disable_recurring_run
        verb = "resume" if on else "pause"
        self._ask(f"{verb} {schedule.name}", lambda: switch(schedule.schedule_id))

    def delete_schedule(self, schedule: Scheduled) -> None:
        """Remove a schedule; its runs stay."""

        def delete() -> Any:
            return self._kfp.delete_recurring_run(schedule.schedule_id)

        try:
            self._ask(f"delete {schedule.name}", delete)
        except RemoteError as error:
            if error.status != 404:  # an earlier try, whose answer was lost, has done it
                raise

    def _submitted(self, run: Any) -> Submitted:
        return Submitted(str(run.run_id), str(run.display_name), f"{self.place}/#/runs/details/{run.run_id}")

    def _scheduled(self, found: Any) -> Scheduled:
        on = str(found.status or found.mode or "").upper().startswith("ENABLE")
        cron, words = _read_cron(found, self._zone)
        return Scheduled(str(found.recurring_run_id), str(found.display_name), on, cron, words)

    def _find(self, what: str, listed: Callable[..., Any], key: str, name: str, **asked: Any) -> Any:
        """Return the thing of this name, None where there is none."""
        wanted = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
        found = self._pages(what, listed, key, filter=wanted, **asked)
        return next((each for each in found if each.display_name == name), None)

    def _pages(self, what: str, listed: Callable[..., Any], key: str, **asked: Any) -> Iterator[Any]:
        token = ""
        while True:
            page = self._ask(what, functools.partial(listed, page_token=token, page_size=100, **asked))
            yield from getattr(page, key) or []
            token = page.next_page_token or ""
            if not token:
                return

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        with _quiet():
            return self._client.call(what, call)

    def _make(self, what: str, make: Callable[[], T], find: Callable[[], T]) -> T:
        with _quiet():
            return self._client.create(what, make, find)

    def _token_is_fresh(self) -> bool:
        """Take the token anew; return whether it is another one than the one that was refused."""
        before, self._sent = self._sent, self._token()
        if hasattr(self, "_configuration"):
            self._configuration.api_key["authorization"] = self._sent
        return self._sent != before


def _bounded_client(host: str, token: str, namespace: str) -> Any:
    """Return kfp's client; each of its requests ends, and is sent once: what may be repeated is decided here.

    By itself it has no time limit, sends uploads again, and asks an address that is none for 25 seconds, with traces.
    """
    import kfp

    class Bounded(kfp.Client):  # type: ignore[misc]
        def _load_config(self, *arguments: Any) -> Any:
            configuration = super()._load_config(*arguments)
            configuration.retries = False
            return configuration

        def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002
            return self._healthz_api.healthz_service_get_healthz()

    def request(*arguments: Any, _request_timeout: Any = None, **named: Any) -> Any:
        return send(
            *arguments, _request_timeout=_request_timeout or (requests.REQUEST_SECONDS, requests.REQUEST_SECONDS), **named
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # With a namespace it asks nothing while it is made: not before the time limit is set.
        client = Bounded(host=host, existing_token=token or None, namespace=namespace or "-")
    client._context_setting["namespace"] = namespace
    rest = client._run_api.api_client.rest_client  # one for all
    send, rest.request = rest.request, request
    client.get_kfp_healthz()
    return client


def _failure(error: Exception) -> Failure | None:
    import urllib3
    from kfp_server_api import ApiException

    if isinstance(error, ApiException):
        return Failure(int(error.status or 0), _said(error), error.headers or {})
    if isinstance(error, (urllib3.exceptions.HTTPError, OSError)):
        return no_answer(error, received=not isinstance(error, urllib3.exceptions.NewConnectionError))
    return None


def _said(error: Any) -> str:
    """Return the reason that the server gives, else its status in words."""
    try:
        body = json.loads(error.body or "")
        said = body.get("message") or body.get("error_message") or body.get("error")
    except (ValueError, AttributeError):
        said = ""
    return str(said or error.reason or f"status {error.status}").splitlines()[0].rstrip(".")


def _read_cron(found: Any, zone: str) -> tuple[Cron | None, str]:
    cron = found.trigger.cron_schedule if found.trigger else None
    if cron is None or not cron.cron:
        return None, "not by cron: made by another program"
    seconds, _, fields = str(cron.cron).partition(" ")
    try:
        schedule = parse_cron(fields, zone)
    except ConfigError:
        return None, f"{cron.cron} (six fields, seconds first)"
    return schedule, schedule.explain() if seconds == "0" else f"{schedule.explain()}, at second {seconds}"


def _steps(run: Any) -> Iterator[tuple[str, str]]:
    details = getattr(run.run_details, "task_details", None) or []
    for each in details:
        if each.display_name and each.state:
            yield str(each.display_name), str(each.state).upper()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep kfp from printing links: the program says where to look once, at the end."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
