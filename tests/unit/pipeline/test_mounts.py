"""Locations that a platform does not mount are refused when compiling, with what to use instead."""

from __future__ import annotations

import pytest

from components.common.errors import ConfigError
from pipeline.config import load_config
from pipeline.mounts import check_mounts_on_kubeflow, check_mounts_on_vertex

VERTEX, KUBEFLOW = ["run.dir=/gcs/b/wgan"], ["run.dir=/mnt/wgan", "deploy.volume_claim=wgan"]
NOT_ON_THE_VOLUME = "is not on the volume wgan, which is mounted at run.dir = '/mnt/wgan'."
NO_MOUNT_POINT = (
    "is not a URL, nor a path at which Kubeflow can mount a volume. Use --set run.dir=s3://BUCKET/FOLDER or gs://BUCKET/FOLDER,"
    " or --set run.dir=/mnt/wgan --set deploy.volume_claim=NAME."
)
NO_SHARED_DISK = "is a folder, but run.dir is a URL, and the steps share no disk. Use a URL, such as --set"


@pytest.mark.parametrize(
    ("key", "location", "cure"),
    [
        ("run.dir", "runs", "/gcs/BUCKET/FOLDER, or a URL such as gs://BUCKET/FOLDER."),
        ("run.dir", "/gcs", "/gcs/BUCKET/FOLDER"),
        ("run.dir", "/gcs/b/../../mnt", "/gcs/BUCKET/FOLDER"),
        ("run.work_dir", "/tmp/w", "/gcs/BUCKET/FOLDER"),
        ("push.registry", "/srv/r", "/gcs/BUCKET/FOLDER"),
        ("validate.history", "h", "/gcs/BUCKET/FOLDER"),
        ("train.start_from", "models/7", "/gcs/BUCKET/FOLDER"),
        ("ingest.tfds_manual_dir", "~/m", "/gcs/BUCKET/FOLDER"),
        ("ingest.source", "images:memory://in", "images:/gcs/BUCKET/FOLDER"),
        ("ingest.source", "images:file:///mnt/in", "images:/gcs/BUCKET/FOLDER"),
        ("ingest.source", "images:in/*.png", "images:/gcs/BUCKET/FOLDER, or a URL such as images:gs://BUCKET/FOLDER."),
    ],
)
def test_what_vertex_does_not_mount_is_refused(key: str, location: str, cure: str) -> None:
    tfds = ["ingest.source=tfds:mnist"] if "tfds" in key else []
    with pytest.raises(ConfigError) as caught:
        check_mounts_on_vertex(load_config(None, [*VERTEX, *tfds, f"{key}={location}"]))
    sentence = f"{key} = {location!r} is not in /gcs/BUCKET, and Vertex AI mounts nothing else. Use --set {key}={cure}"
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["run.dir=runs"], f"run.dir = 'runs' {NO_MOUNT_POINT}"),
        (
            ["deploy.volume_claim="],
            "run.dir = '/mnt/wgan' is not on a volume, and the images of the steps are read-only."
            " Use --set deploy.volume_claim=NAME; the volume is mounted at run.dir. Without a volume, use"
            " --set run.dir=s3://BUCKET/FOLDER or gs://BUCKET/FOLDER.",
        ),
        (
            ["push.registry=/mnt/wgan2"],
            f"push.registry = '/mnt/wgan2' {NOT_ON_THE_VOLUME} Use --set push.registry=/mnt/wgan/FOLDER, or a URL such as"
            " gs://BUCKET/FOLDER.",
        ),
        (["ingest.source=images:~/in"], f"ingest.source = 'images:~/in' {NOT_ON_THE_VOLUME} Use"),
    ],
)
def test_what_is_not_on_the_volume_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_mounts_on_kubeflow(load_config(None, [*KUBEFLOW, *overrides]))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["deploy.volume_claim=wgan"],
            "deploy.volume_claim = 'wgan' is mounted at run.dir, but that is a URL. Leave deploy.volume_claim empty, or use a"
            " folder for run.dir.",
        ),
        (["push.registry=/srv/r"], f"push.registry = '/srv/r' {NO_SHARED_DISK} push.registry=gs://BUCKET/FOLDER."),
        (["ingest.source=images:in"], f"ingest.source = 'images:in' {NO_SHARED_DISK} ingest.source=images:gs://BUCKET/FOLDER."),
    ],
)
def test_without_a_volume_every_location_is_a_url(overrides: list[str], sentence: str) -> None:
    for run_dir in ("s3://b/wgan", "gs://b/wgan"):
        check_mounts_on_kubeflow(load_config(None, [f"run.dir={run_dir}", "ingest.source=images:s3://b/in"]))
        with pytest.raises(ConfigError) as caught:
            check_mounts_on_kubeflow(load_config(None, [f"run.dir={run_dir}", *overrides]))
        assert str(caught.value) == sentence
    check_mounts_on_vertex(load_config(None, ["run.dir=gs://b/wgan"]))


@pytest.mark.parametrize("source", ["digits", "images:gs://b/in/**/*.png", "images:s3://b/x.zip", "tfds:mnist"])
@pytest.mark.parametrize("registry", ["", "gs://b/registry"])
def test_urls_are_accepted(source: str, registry: str) -> None:
    overrides = [f"ingest.source={source}", f"push.registry={registry}", "train.start_from=champion"]
    check_mounts_on_vertex(load_config(None, [*VERTEX, *overrides]))
    check_mounts_on_kubeflow(load_config(None, [*KUBEFLOW, *overrides]))


def test_folders_on_the_mount_are_accepted() -> None:
    for check, mount, where in [
        (check_mounts_on_vertex, "/gcs/b", ["run.dir=/gcs/b"]),
        (check_mounts_on_kubeflow, "/mnt/wgan", KUBEFLOW),
    ]:
        source = f"ingest.source=images:{mount}/in/**/*.png"
        check(load_config(None, [*where, f"run.work_dir={mount}/w", f"push.registry=file://{mount}/r", source]))
