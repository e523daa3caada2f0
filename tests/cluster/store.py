"""Kubeflow's own object store: what Argo's settings in the namespace say of it, and a client on this machine."""

from __future__ import annotations

import base64
import json
import os
from typing import Any, NamedTuple

import fsspec
import pytest
import yaml

from tests.cluster.cluster import Cluster

SECRET = "mlpipeline-minio-artifact"


class Store(NamedTuple):
    """Kubeflow's object store: its URL on this machine and in pods, its bucket and region, and a key of it."""

    url: str
    inside: str
    bucket: str
    region: str
    key: str
    secret: str

    @property
    def files(self) -> Any:
        """The store as a file system; what pods write is seen at once."""
        options = {"endpoint_url": self.url, "region_name": self.region}
        return fsspec.filesystem("s3", key=self.key, secret=self.secret, client_kwargs=options, use_listings_cache=False)

    def settings(self, url: str) -> list[str]:
        """Return the overrides of a config that keeps everything at an s3:// URL of the store, and mounts no volume."""
        return [
            f"run.dir={url}", "deploy.volume_claim=", f"deploy.s3_secret={SECRET}", f"deploy.s3_endpoint={self.inside}",
            f"deploy.s3_region={self.region}",
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Return the variables with which the command line uses the store on this machine."""
        values = {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": self.region}
        return values | {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}


def store_of(cluster: Cluster) -> Store:
    """Return the object store; skip the test if `make test-cluster` does not say where this machine reaches it."""
    if not (url := os.environ.get("CLUSTER_STORE")):
        pytest.skip("STORE=URL is not given: a port-forward of Kubeflow's object store")
    settings = json.loads(cluster.kubectl("get", "configmap", "workflow-controller-configmap", "--output", "json"))["data"]
    s3 = yaml.safe_load(settings["artifactRepository"])["s3"]
    encoded = json.loads(cluster.kubectl("get", "secret", SECRET, "--output", "json"))["data"]
    key, secret = (base64.b64decode(encoded[name]).decode() for name in ("accesskey", "secretkey"))
    inside = f"{'http' if s3.get('insecure') else 'https'}://{s3['endpoint']}"
    return Store(url, inside, s3["bucket"], s3.get("region") or "us-east-1", key, secret)
