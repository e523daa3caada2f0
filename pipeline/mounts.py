"""Whether every step of a remote run finds the locations of a config: on a disk that its platform mounts, or at a URL."""

from __future__ import annotations

import os.path
from pathlib import PurePosixPath

from components.common.addresses import is_address, local_path
from components.common.errors import ConfigError
from pipeline.config import RunConfig

IMAGES = "images:"
WITHOUT_VOLUME = "--set run.dir=s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"


def check_mounts_on_vertex(config: RunConfig) -> None:
    """Raise ConfigError for a folder that is not in a bucket, which is all that Vertex AI mounts."""
    for key, location in locations(config).items():
        path = _path(location)
        if path and not (path.parts[:2] == ("/", "gcs") and len(path.parts) > 2):
            raise _refusal(key, location, "is not in /gcs/BUCKET, and Vertex AI mounts nothing else.", "/gcs/BUCKET/FOLDER")


def check_mounts_on_kubeflow(config: RunConfig) -> None:
    """Raise ConfigError for a folder that is not on the volume deploy.volume_claim, which is mounted at run.dir.

    Without a volume, run.dir and all other locations must be URLs.
    """
    run_dir, claim = config.run.dir, config.deploy.volume_claim
    mount = _path(run_dir)
    if mount is None:
        _check_urls(config)
        return
    if not mount.is_absolute() or len(mount.parts) < 2:
        problem = f"run.dir = {run_dir!r} is not a URL, nor a path at which Kubeflow can mount a volume."
        raise ConfigError(problem, f"Use {WITHOUT_VOLUME}, or --set run.dir=/mnt/wgan --set deploy.volume_claim=NAME.")
    if not claim:
        problem = f"run.dir = {run_dir!r} is not on a volume, and the images of the steps are read-only."
        cure = "Use --set deploy.volume_claim=NAME; the volume is mounted at run.dir."
        raise ConfigError(problem, f"{cure} Without a volume, use {WITHOUT_VOLUME}.")
    for key, location in locations(config).items():
        path = _path(location)
        if path and not path.is_relative_to(mount):
            problem = f"is not on the volume {claim}, which is mounted at run.dir = {run_dir!r}."
            raise _refusal(key, location, problem, f"{mount}/FOLDER")


def _check_urls(config: RunConfig) -> None:
    """Raise ConfigError for a folder: with a URL for run.dir no volume is mounted, and the steps share no disk."""
    if config.deploy.volume_claim:
        problem = f"deploy.volume_claim = {config.deploy.volume_claim!r} is mounted at run.dir, but that is a URL."
        raise ConfigError(problem, "Leave deploy.volume_claim empty, or use a folder for run.dir.")
    for key, location in locations(config).items():
        if _path(location):
            prefix = IMAGES if key == "ingest.source" else ""
            problem = f"{key} = {location!r} is a folder, but run.dir is a URL, and the steps share no disk."
            raise ConfigError(problem, f"Use a URL, such as --set {key}={prefix}gs://BUCKET/FOLDER.")


CHECKS = {"kubeflow": check_mounts_on_kubeflow, "vertex": check_mounts_on_vertex}


def locations(config: RunConfig) -> dict[str, str]:
    """Return what the steps read and write, by the key of the config: paths and URLs."""
    source, start = config.ingest.source, config.train.start_from
    locations = {
        "run.dir": config.run.dir,
        "run.work_dir": config.run.work_dir,
        "validate.history": config.validation.history,
        "push.registry": config.push.registry,
        "train.start_from": start if start != "champion" else "",
        "ingest.source": source if source.startswith(IMAGES) else "",
        "ingest.tfds_manual_dir": config.ingest.tfds_manual_dir,
        "ingest.tfds_data_dir": config.ingest.tfds_data_dir,
    }
    return {key: location for key, location in locations.items() if location}


def _path(location: str) -> PurePosixPath | None:
    """Return the path of a location; None for a URL, which every machine can open."""
    place = location.removeprefix(IMAGES)
    if is_address(place) and not place.startswith("memory://"):
        return None
    return PurePosixPath(os.path.normpath(local_path(place)))


def _refusal(key: str, location: str, problem: str, folder: str) -> ConfigError:
    prefix = IMAGES if key == "ingest.source" else ""
    cure = f"Use --set {key}={prefix}{folder}, or a URL such as {prefix}gs://BUCKET/FOLDER."
    return ConfigError(f"{key} = {location!r} {problem}", cure)
