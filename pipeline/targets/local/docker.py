"""Each step in its container, on this machine: kfp.local's DockerRunner, with its false successes closed.

kfp 2.17.0 starts containers so that the engine removes them when they end, and takes one that is gone for one that succeeded
(kubeflow/pipelines#13332): most containers that fail at once pass. And it gives the step's command as arguments of whatever
entry point the image has. `run_container` here does neither; tests/pipeline/test_docker_runner.py shows both.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.common.addresses import is_address, local_path
from components.common.artifacts import code_digest
from components.common.errors import ConfigError, first_line
from pipeline.config import RunConfig

CANNOT_START = 127
GRACE_SECONDS, SILENT_SECONDS = 2.0, 24 * 3600
STOP_SECONDS = 60  # that a step has to save, after SIGTERM
READ_CODE = (
    "import json; from components.common.artifacts import code_digest;"
    " print(json.dumps({step: code_digest(step) for step in %r}))"
)  # fmt: skip

Volumes = Mapping[str, Mapping[str, str]]


def run_container(client: Any, image: str, command: Sequence[str], volumes: Volumes, *, arguments: Mapping[str, Any]) -> int:
    """Run a container to its end, its output printed as it comes, and return its exit code; nothing of it is left.

    `command` is all that runs: the image's own entry point is put aside. On Ctrl-C and SIGTERM the container is asked to stop
    and given 60 s to save. A container that was killed has the exit code 128 + signal.
    """
    import docker

    container = client.containers.create(
        image, list(command[1:]), entrypoint=list(command[:1]), volumes=dict(volumes), **arguments
    )
    try:
        try:
            container.start()
        except docker.errors.APIError as error:  # no such command in the image, or a mount that cannot be
            print(f"The container of {image} cannot start: {error.explanation or error}")
            return CANNOT_START
        output = _Output(container.id)
        code = int(container.wait(timeout=None)["StatusCode"])
        output.finish(container)
        return code
    except KeyboardInterrupt:
        _stop(container)
        raise
    finally:
        container.remove(force=True)


def _stop(container: Any) -> None:
    """Ask every process of a container to end, and wait until they have saved.

    Not by the engine's own stop: that asks the first process alone, which is KFP's shell, and a shell hands nothing on.
    """
    import docker
    import requests

    with contextlib.suppress(docker.errors.APIError, requests.RequestException):  # it may have ended, or take too long
        container.exec_run(["sh", "-c", "kill -TERM -1"])
        container.wait(timeout=STOP_SECONDS)


class _Output:
    """Prints what a container says as it comes, from a thread of its own.

    Only waiting for the container says when it has ended: podman's stream of one that ended in silence may never end, and none
    begins before the first word. What the stream has not given is asked for when all is over.
    """

    def __init__(self, container_id: str) -> None:
        self._container_id, self._printed, self._over = container_id, 0, False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def finish(self, container: Any) -> None:
        """Print the rest."""
        self._thread.join(GRACE_SECONDS)
        self._over = True
        rest = container.logs()[self._printed :]
        print(rest.decode(errors="replace"), end="", flush=True)

    def _follow(self) -> None:
        import docker
        import requests

        # Of its own client: a connection is of one thread. Without a time limit, since a step may be silent for long.
        with (
            contextlib.suppress(docker.errors.DockerException, requests.RequestException, OSError, ValueError),
            contextlib.closing(docker.from_env(timeout=SILENT_SECONDS)) as client,
        ):
            for chunk in client.containers.get(self._container_id).logs(stream=True, follow=True):
                if self._over:
                    return
                self._printed += len(chunk)
                print(chunk.decode(errors="replace"), end="", flush=True)


@contextlib.contextmanager
def containers_that_fail_fail(volumes: Volumes) -> Iterator[None]:
    """Have kfp.local start containers by run_container, with more `volumes` than it knows of."""
    from kfp.local import docker_task_handler

    def run(client: Any, image: str, command: list[str], volumes: Volumes, **arguments: Any) -> int:
        return run_container(client, image, command, {**volumes, **more}, arguments=arguments)

    more, original = volumes, docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = run
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = original


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Give a client of the engine that DOCKER_HOST names, else Docker's own. Raises ConfigError where there is none."""
    try:
        import docker
    except ImportError:
        raise ConfigError("--runner docker needs the package docker.", 'pip install "wgan-tpu-pipeline[docker]"') from None
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        reason = first_line(error)
        raise ConfigError(
            f"No container engine answers at {os.environ.get('DOCKER_HOST', 'its usual place')}: {reason}.",
            "Start Docker, or podman system service and name its socket with DOCKER_HOST.",
        ) from None
    try:
        yield client
    finally:
        client.close()


def check_image(client: Any, config: RunConfig) -> None:
    """Refuse an image that is not here or holds another version of this program than the one that starts it.

    Raises ConfigError: the keys of the steps are made here, and say which code made what is cached.
    """
    import docker

    image = config.deploy.image
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        raise ConfigError(
            f"There is no image {image} here (deploy.image).", "Build it: TAG=IMAGE deploy/images/build data BASE@sha256:…"
        ) from None
    steps = tuple(config.sections())
    printed = client.containers.run(
        image, ["-c", READ_CODE % (steps,)], entrypoint=["python"], remove=True, **settings(network=False)
    )
    theirs = json.loads(printed)
    if others := [step for step in steps if theirs[step] != code_digest(step)]:
        raise ConfigError(
            f"The image {image} holds other code than this program for {', '.join(others)}.",
            "Build it again from this checkout.",
        )


def settings(*, network: bool, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return how a step's container runs: as the one who runs this program, with a root that cannot be written.

    No capabilities, no new privileges; no network unless something of the config lies at an address.
    """
    return {
        "environment": {"HOME": "/tmp", **(environment or {})},
        "user": f"{os.getuid()}:{os.getgid()}",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,exec,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        **({} if network else {"network_mode": "none"}),
    }


def runner(config: RunConfig, environment: Mapping[str, str]) -> Any:
    """Return kfp's runner with the settings of every step."""
    from kfp import local

    return local.DockerRunner(**settings(network=needs_network(config), environment=environment))


def mounts(config: RunConfig) -> dict[str, dict[str, str]]:
    """Return what the steps of a resolved config read and write, each under its own path: {path: {bind, mode}}."""
    written = [config.run.dir, str(config.work_dir), str(config.history)]
    if not is_address(config.registry):
        written.append(config.registry)
    read = [path for path in (config.ingest.tfds_manual_dir, config.ingest.tfds_data_dir) if path]
    start = config.train.start_from
    if start and not is_address(start) and Path(start).is_dir():
        read.append(start)
    place = config.ingest.source.removeprefix("images:")
    if place != config.ingest.source and not is_address(place):
        read.append(_without_pattern(local_path(place)))
    for path in written:
        Path(path).mkdir(parents=True, exist_ok=True)
    volumes = {path: {"bind": path, "mode": "ro"} for path in read}
    return volumes | {path: {"bind": path, "mode": "rw"} for path in written}


def _without_pattern(path: str) -> str:
    """Return the folder that a glob is below of."""
    parts = Path(path).parts
    plain = next((index for index, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts))
    return str(Path(*parts[:plain]))


def needs_network(config: RunConfig) -> bool:
    """Return whether a step asks something that is not on this machine."""
    places = (config.registry, config.ingest.source.removeprefix("images:"), config.ingest.shared_folder)
    downloads = config.ingest.source.startswith("tfds:") or config.evaluate.download_weights
    return downloads or bool(config.push.vertex_model) or any(is_address(place) for place in places)


def check_devices(config: RunConfig) -> None:
    """Raise ConfigError for devices that a container here is not given."""
    if not config.train.devices.startswith("cpu"):
        raise ConfigError(
            f"--runner docker gives containers no {config.train.devices}.",
            "Use --runner subprocess, or --set train.devices=cpu:1.",
        )
