"""Each step in a container on this machine, with kfp.local's DockerRunner and our own run_container in it.

kfp 2.17.0 lets the engine remove containers when they end, and takes a removed container for one that succeeded
(kubeflow/pipelines#13332), so most containers that fail at once count as successes. It also passes the step's command as
arguments to the image's entry point. tests/pipeline/test_docker_runner.py shows both faults, and that `run_container` has
neither.
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
STOP_SECONDS = 60  # for a step to save after SIGTERM
PRINT_CODE_DIGESTS = (
    "import json; from components.common.artifacts import code_digest;"
    " print(json.dumps({step: code_digest(step) for step in %r}))"
)  # fmt: skip

Volumes = Mapping[str, Mapping[str, str]]


def run_container(client: Any, image: str, command: Sequence[str], volumes: Volumes, *, arguments: Mapping[str, Any]) -> int:
    """Run a container, print its output as it comes, remove it, and return its exit code (128 + signal if it was killed).

    `command` replaces the image's entry point. On Ctrl-C and SIGTERM the container gets SIGTERM and 60 s to save.
    """
    import docker

    container = client.containers.create(
        image, list(command[1:]), entrypoint=list(command[:1]), volumes=dict(volumes), **arguments
    )
    try:
        try:
            container.start()
        except docker.errors.APIError as error:  # no such command in the image, or an impossible mount
            print(f"The container of {image} cannot start: {error.explanation or error}")
            return CANNOT_START
        output = _ContainerOutput(container.id)
        code = int(container.wait(timeout=None)["StatusCode"])
        output.finish(container)
        return code
    except KeyboardInterrupt:
        _stop(container)
        raise
    finally:
        container.remove(force=True)


def _stop(container: Any) -> None:
    """Send SIGTERM to the first process of a container, which is the step (steps.replace_shell); wait until it has saved."""
    import docker
    import requests

    with contextlib.suppress(docker.errors.APIError, requests.RequestException):  # it has ended already, or takes too long
        container.kill(signal="SIGTERM")
        container.wait(timeout=STOP_SECONDS)


class _ContainerOutput:
    """Prints a container's output as it comes, in a thread.

    The end of the stream is not the end of the container: podman starts the stream with the first output, and may never end
    that of a container that printed nothing. What the stream has not delivered is fetched after the container has ended.
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

        # A separate client, since a connection belongs to one thread; a long timeout, since a step may print nothing for hours.
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
def kfp_uses_run_container(mounts: Volumes) -> Iterator[None]:
    """Make kfp.local start containers with run_container, and mount `mounts` in addition to its own volumes."""
    from kfp.local import docker_task_handler

    def run(client: Any, image: str, command: list[str], volumes: Volumes, **arguments: Any) -> int:
        return run_container(client, image, command, {**volumes, **mounts}, arguments=arguments)

    original = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = run
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = original


@contextlib.contextmanager
def engine_client() -> Iterator[Any]:
    """Yield a client of the engine at DOCKER_HOST, or at Docker's default socket. Raises ConfigError if none answers."""
    try:
        import docker
    except ImportError:
        raise ConfigError("--runner docker needs the package docker.", 'pip install "wgan-tpu-pipeline[docker]"') from None
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        host = os.environ.get("DOCKER_HOST", "its default socket")
        raise ConfigError(
            f"No container engine answers at {host}: {first_line(error)}.",
            "Start Docker, or start podman system service and set DOCKER_HOST to its socket.",
        ) from None
    try:
        yield client
    finally:
        client.close()


def check_image(client: Any, config: RunConfig) -> None:
    """Raise ConfigError for an image that is missing here or contains other code than this program.

    The keys of the steps are computed here, and record which code made a cached output.
    """
    import docker

    image = config.deploy.image
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        raise ConfigError(
            f"There is no image {image} on this machine (deploy.image).",
            "Build it: TAG=IMAGE deploy/images/build data BASE@sha256:…",
        ) from None
    steps = tuple(config.sections())
    output = client.containers.run(
        image, ["-c", PRINT_CODE_DIGESTS % (steps,)], entrypoint=["python"], remove=True, **container_settings(network=False)
    )
    digests = json.loads(output)
    if others := [step for step in steps if digests[step] != code_digest(step)]:
        raise ConfigError(
            f"The image {image} contains other code than this program for {', '.join(others)}.",
            "Build it again from this checkout.",
        )


def container_settings(*, network: bool, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the settings of a step's container: the current user, a read-only root, no capabilities, no new privileges."""
    return {
        "environment": {"HOME": "/tmp", **(environment or {})},
        "user": f"{os.getuid()}:{os.getgid()}",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,exec,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        **({} if network else {"network_mode": "none"}),
    }


def find_mounts(config: RunConfig) -> dict[str, dict[str, str]]:
    """Return the paths that the steps of a resolved config read and write, as {path: {bind, mode}}; create written folders."""
    shared = [each for each in (config.work_dir, config.history, config.registry) if not is_address(each)]
    written = [config.run.dir, *shared]
    read = [path for path in (config.ingest.tfds_manual_dir, config.ingest.tfds_data_dir) if path]
    start = config.train.start_from
    if start and not is_address(start) and Path(start).is_dir():
        read.append(start)
    images = config.ingest.source.removeprefix("images:")
    if images != config.ingest.source and not is_address(images):
        read.append(_without_pattern(local_path(images)))
    for path in written:
        Path(path).mkdir(parents=True, exist_ok=True)
    volumes = {path: {"bind": path, "mode": "ro"} for path in read}
    return volumes | {path: {"bind": path, "mode": "rw"} for path in written}


def _without_pattern(path: str) -> str:
    """Return the deepest folder that contains every match of a glob."""
    parts = Path(path).parts
    plain = next((index for index, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts))
    return str(Path(*parts[:plain]))


def needs_network(config: RunConfig) -> bool:
    """Return whether a step reads or writes anything that is not on this machine."""
    locations = (
        config.work_dir,
        config.registry,
        config.history,
        config.ingest.source.removeprefix("images:"),
        config.ingest.shared_folder,
    )
    downloads = config.ingest.source.startswith("tfds:") or config.evaluate.download_weights
    return downloads or bool(config.push.vertex_model) or any(is_address(location) for location in locations)


def check_devices(devices: str) -> None:
    """Raise ConfigError for devices that containers here do not get."""
    if not devices.startswith("cpu"):
        cure = "Use --runner subprocess, or --set train.devices=cpu:1."
        raise ConfigError(f"--runner docker does not give {devices} to containers.", cure)
