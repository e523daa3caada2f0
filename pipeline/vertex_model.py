"""A version of a registry as Vertex AI's Model Registry takes it: requests as JSON values; nothing is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from components.artifacts import Manifest
from components.errors import ConfigError

METRICS = ("kid", "kid_std", "fid", "precision", "recall", "density", "coverage", "memorization")


def upload_request(
    *, parent: str, model: str, version: str, manifest: Manifest, artifact_uri: str, serving_image: str, first: bool
) -> dict[str, Any]:
    """Return an UploadModelRequest: a model when it is the `first` version, else a version of the model that is there.

    parent: projects/P/locations/L; artifact_uri: gs:// address of the folder that holds saved_model.pb, which Vertex reads;
    serving_image: the container that serves it. Raises ConfigError for names that Vertex refuses.
    """
    _check(parent, model, version, artifact_uri)
    details = manifest.details
    body = {
        "display_name": model,
        "version_aliases": ["default", "champion", version],
        "version_description": f"Registry version {version}, digest {manifest.digest}",
        "artifact_uri": artifact_uri,
        "container_spec": {"image_uri": serving_image},
        "labels": {
            "version": version,
            # The whole digest has one character more than a label may have.
            "digest": manifest.digest[:63],
            "model-digest": manifest.inputs["model"][:63],
            "image-size": str(details["image_size"]),
            "channels": str(details["channels"]),
        },
    }
    place = {"model_id": model} if first else {"parent_model": f"{parent}/models/{model}"}
    return {"parent": parent, **place, "model": body}


def evaluation_request(*, model_version: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return an ImportModelEvaluationRequest with the scores as metrics and their provenance as metadata.

    model_version: projects/P/locations/L/models/M@VERSION.
    """
    if not re.fullmatch(r"projects/[^/]+/locations/[^/]+/models/[^/@]+@[^/@]+", model_version):
        raise ConfigError(f"{model_version!r} is no version of a model.", "Use projects/P/locations/L/models/M@VERSION.")
    return {
        "parent": model_version,
        "model_evaluation": {
            "display_name": "wgan-pipeline evaluate",
            "metrics": {name: float(scores[name]) for name in METRICS},
            "metadata": {"provenance": scores["provenance"]},
        },
    }


def _check(parent: str, model: str, version: str, artifact_uri: str) -> None:
    if not re.fullmatch(r"projects/[^/]+/locations/[^/]+", parent):
        raise ConfigError(f"{parent!r} is no place for a model.", "Use projects/PROJECT/locations/LOCATION.")
    if not re.fullmatch(r"[a-z0-9_-]{1,63}", model):
        raise ConfigError(f"{model!r} is no name of a model on Vertex.", "Use up to 63 of a-z, 0-9, _ and -.")
    if not re.fullmatch(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]", version):
        raise ConfigError(f"{version!r} is no alias of a version on Vertex.", "Use a version of the registry, such as v0001.")
    if not artifact_uri.startswith("gs://"):
        raise ConfigError(f"Vertex cannot read {artifact_uri}.", "Copy the version to a bucket and give its gs:// address.")
