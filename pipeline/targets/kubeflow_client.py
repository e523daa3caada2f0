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
from typing import Any, NamedTuple, TypeVar

from components.addresses import first_line
from components.errors import ConfigError, PipelineError

T = TypeVar("T")
TRIES, REQUEST_SECONDS, MOST_SECONDS = 5, 60.0, 120.0
POLL_SECONDS, FIRST_SECONDS = 5.0, 1.0
BUSY, BROKEN = (429,), (500, 502, 503, 504)  # after the second an asking may be repeated, a making only when it is looked for
GOOD, BAD = ("SUCCEEDED",), ("FAILED", "CANCELED", "SKIPPED")
MEANINGS = {
    401: "it does not take this token (expired?); give a fresh one with --token-file",
    403: "this account may not do that; ask for the role kubeflow-pipelines-edit in the namespace",
}


class RemoteError(PipelineError):
    """The platform refused (`status` is HTTP's) or could not be reached."""

    def __init__(self, problem: str, cure: str = "", status: int = 0) -> None:
        self.status = status
        super().__init__(problem, cure)


class LostError(Exception):
    """A request whose outcome nobody knows: it may have been done."""


class Submitted(NamedTuple):
    """A run on Kubeflow."""

    run_id: str
    name: str
    link: str


class Outcome(NamedTuple):
    """How a run ended: its state as Kubeflow names it, the steps that failed, and what Kubeflow says of it."""

    state: str
    failed: tuple[str, ...]
    message: str

    @property
    def succeeded(self) -> bool:
        """Whether the run and every step of it did: an exit handler that succeeds must not hide a step that failed."""
        return self.state in GOOD and not self.failed


class Kubeflow:
    """One Kubeflow Pipelines. Raises ConfigError when `host` is none, RemoteError when it cannot be asked."""

    def __init__(self, host: str, *, token: Callable[[], str] = str, namespace: str = "") -> None:
        """`token` gives the bearer token, and a fresh one when it is asked again; empty: none is sent."""
        if not host.startswith(("http://", "https://")):
            raise ConfigError(f"--host {host} is no address.", "Use https://HOST, or http://localhost:PORT of a port-forward.")
        self.host = host.rstrip("/")
        self._token, self._sent = token, token()
        self._inside = {"namespace": namespace or None}
        try:
            self._kfp: Any = self._ask("ask whether it is well", lambda: _bounded_client(self.host, self._sent, namespace))
        except RemoteError as error:
            if error.status not in (404, 405):
                raise
            raise ConfigError(
                f"{self.host} answers, but is no Kubeflow Pipelines: /apis/v2beta1/healthz is not there.",
                "Name the address of its user interface, such as https://HOST/pipeline or a port-forward's.",
            ) from None
        self._configuration = self._kfp._run_api.api_client.configuration

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, made if there is none of this name."""

        def find() -> Any:
            return self._find("list the experiments", self._kfp.list_experiments, "experiments", name, **self._inside)

        import kfp_server_api

        body = kfp_server_api.V2beta1Experiment(display_name=name, **self._inside)
        create = self._kfp._experiment_api.experiment_service_create_experiment
        found = find() or self._make(f"make the experiment {name}", lambda: create(experiment=body), find)
        return str(found.experiment_id)

    def version(self, name: str, file: Path) -> tuple[str, str]:
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

    def run(self, experiment_id: str, name: str, version: tuple[str, str], service_account: str | None) -> Submitted:
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
            run = self._ask("ask how the run goes", lambda: self._kfp.get_run(run_id))
            for name, state in _steps(run):
                if seen.get(name) != state:
                    seen[name] = state
                    tell(f"{name}: {state.lower()}")
            state = (run.state or "PENDING").upper()
            if state in GOOD + BAD:
                failed = tuple(name for name, state in seen.items() if state in BAD and state != "SKIPPED")
                message = getattr(run.error, "message", "") if run.error else ""
                return Outcome(state, failed, message or "")
            time.sleep(POLL_SECONDS)

    def get(self, run_id: str) -> Submitted:
        """Return a run by its id."""
        return self._submitted(self._ask("find the run", lambda: self._kfp.get_run(run_id)))

    def schedule(self, name: str) -> Any:
        """Return the schedule (a V2beta1RecurringRun) of a name, None where there is none."""
        return self._find("list the schedules", self._kfp.list_recurring_runs, "recurring_runs", name, **self._inside)

    def schedules(self) -> list[Any]:
        """Return all schedules."""
        return list(self._pages("list the schedules", self._kfp.list_recurring_runs, "recurring_runs", **self._inside))

    def make_schedule(
        self,
        name: str,
        experiment_id: str,
        version: tuple[str, str],
        cron: str,
        *,
        start: str | None,
        end: str | None,
        service_account: str | None,
    ) -> Any:
        """Make a schedule of six fields: one run at a time, and none made up for those that were missed."""

        def make() -> Any:
            return self._kfp.create_recurring_run(
                experiment_id=experiment_id,
                job_name=name,
                cron_expression=cron,
                start_time=start,
                end_time=end,
                max_concurrency=1,
                no_catchup=True,
                service_account=service_account,
                pipeline_id=version[0],
                version_id=version[1],
            )

        return self._make(f"make the schedule {name}", make, lambda: self.schedule(name))

    def switch(self, schedule: Any, *, on: bool) -> None:
        """Resume or pause a schedule."""
        switch = self._kfp.enable_recurring_run if on else self._kfp.disable_recurring_run
        verb = "resume" if on else "pause"
        self._ask(f"{verb} {schedule.display_name}", lambda: switch(schedule.recurring_run_id))

    def delete_schedule(self, schedule: Any) -> None:
        """Remove a schedule; its runs stay."""

        def delete() -> Any:
            return self._kfp.delete_recurring_run(schedule.recurring_run_id)

        try:
            self._ask(f"delete {schedule.display_name}", delete)
        except RemoteError as error:
            if error.status != 404:  # an earlier try, whose answer was lost, has done it
                raise

    def _submitted(self, run: Any) -> Submitted:
        return Submitted(str(run.run_id), str(run.display_name), f"{self.host}/#/runs/details/{run.run_id}")

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

    def _make(self, what: str, make: Callable[[], Any], find: Callable[[], Any]) -> Any:
        """Make a thing once: where the outcome of a request is not known, or it is there already, it is looked for."""
        for _ in range(TRIES):
            try:
                return self._ask(what, make, making=True)
            except LostError as error:
                if (found := find()) is not None:
                    return found
                problem = str(error)
        raise RemoteError(f"{self.host} cannot {what}: {problem}.", "Nothing was made twice; run again.")

    def _ask(self, what: str, call: Callable[[], T], *, making: bool = False) -> T:
        """Return the answer; asks again, at most 5 times, where that cannot do a thing twice. Raises Remote- and LostError."""
        import urllib3
        from kfp_server_api import ApiException

        for turn in range(1, TRIES + 1):
            seconds = FIRST_SECONDS * 2 ** (turn - 1)
            try:
                with _quiet():
                    return call()
            except ApiException as error:
                status = int(error.status or 0)
                if making and status in (*BROKEN, 409):
                    raise LostError(_said(error)) from None
                if status == 401 and self._token_is_fresh():
                    continue
                if status not in (BUSY + BROKEN) or turn == TRIES:
                    raise _refused(self.host, what, status, error) from None
                seconds = _seconds_to_wait(error, seconds)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                first = first_line(error)
                if making and not isinstance(error, urllib3.exceptions.NewConnectionError):
                    raise LostError(first) from None
                if turn == TRIES:
                    raise RemoteError(f"{self.host} cannot be reached to {what}: {first}.", "Look at the address.") from None
            time.sleep(seconds)
        raise AssertionError("the last turn returns or raises")

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
        return send(*arguments, _request_timeout=_request_timeout or (REQUEST_SECONDS, REQUEST_SECONDS), **named)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # With a namespace it asks nothing while it is made: not before the time limit is set.
        client = Bounded(host=host, existing_token=token or None, namespace=namespace or "-")
    client._context_setting["namespace"] = namespace
    rest = client._run_api.api_client.rest_client  # one for all
    send, rest.request = rest.request, request
    client.get_kfp_healthz()
    return client


def _refused(host: str, what: str, status: int, error: Any) -> RemoteError:
    meaning = MEANINGS.get(status, _said(error))
    return RemoteError(f"{host} answered {status} when asked to {what}: {meaning}.", "Then run again.", status)


def _said(error: Any) -> str:
    """Return the reason that the server gives, else its status in words."""
    try:
        body = json.loads(error.body or "")
        said = body.get("message") or body.get("error_message") or body.get("error")
    except (ValueError, AttributeError):
        said = ""
    return str(said or error.reason or f"status {error.status}").splitlines()[0].rstrip(".")


def _seconds_to_wait(error: Any, otherwise: float) -> float:
    asked = str((error.headers or {}).get("Retry-After", ""))
    return min(float(asked), MOST_SECONDS) if asked.isdigit() else otherwise


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
