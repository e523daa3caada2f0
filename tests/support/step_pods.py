"""Pods of the steps, as Kubeflow Pipelines 2.17.0 makes them from a compiled file, without its own containers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import with_folders
from pipeline.targets.compiled import read_compiled
from tests.support.command_line import run
from tests.support.compiled_containers import filled_command

CLAIM, VOLUME = "wgan", "/mnt/wgan"
# What its compiler adds to every pod of a step (backend/src/v2/compiler/argocompiler/security_context.go).
RUNTIME_DEFAULT = {"seccompProfile": {"type": "RuntimeDefault"}}
ADDED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, **RUNTIME_DEFAULT}
WITH_TYPES = {"runAsUser": int, "runAsGroup": int, "runAsNonRoot": bool}


class CompiledFile:
    """A file that `wgan-pipeline compile --target kubeflow` wrote."""

    def __init__(self, folder: Path, config: str, image: str, *settings: str) -> None:
        (folder / "c.toml").write_text(config)
        settings = (f"run.dir={VOLUME}", f"deploy.volume_claim={CLAIM}", f"deploy.image={image}", *settings)
        words = [f"--set={setting}" for setting in settings]
        code, said = run("compile", str(folder / "c.toml"), "--target", "kubeflow", "-o", str(folder / "p.yaml"), *words)
        assert code == 0, said
        self._config = with_folders(read_compiled(folder / "p.yaml", "kubeflow"))
        self.spec, platform = yaml.safe_load_all((folder / "p.yaml").read_text())
        self._platform = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    def steps(self) -> list[str]:
        """Return the names of all steps."""
        return [name.removeprefix("exec-") for name in self._platform]

    def pod(self, step: str, name: str) -> dict[str, Any]:
        """Return the pod of a step. KFP cannot set a read-only root; these pods have one, with a /tmp of their own.

        Raises AssertionError if the file has a setting that is not translated here.
        """
        container = dict(self.spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"])
        platform = dict(self._platform[f"exec-{step}"])
        asked = container.pop("resources")
        assert not any(key.endswith("Limit") for key in asked), f"{step}: {asked}"
        resources = {"requests": {kind: asked[f"resource{kind.title()}Request"] for kind in ("cpu", "memory")}, "limits": {}}
        if chips := asked.get("accelerator"):
            resources["limits"][chips["resourceType"]] = chips["resourceCount"]
        security = {key: WITH_TYPES[key](value) for key, value in platform.pop("securityContext").items()}
        secrets = [(each["secretName"], each["mountPath"]) for each in platform.pop("secretAsVolume", [])]
        claims = [(each["constant"], each["mountPath"]) for each in platform.pop("pvcMount")]
        volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim, _ in claims]
        volumes += [{"name": secret, "secret": {"secretName": secret}} for secret, _ in secrets]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **platform.pop("podMetadata")},
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": "wgan-runner",
                "securityContext": RUNTIME_DEFAULT,
                "activeDeadlineSeconds": int(platform.pop("activeDeadlineSeconds")),
                "nodeSelector": platform.pop("nodeSelector", {}).get("labels", {}),
                "tolerations": platform.pop("tolerations", []),
                "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
                "containers": [
                    {
                        "name": "main",
                        "image": container.pop("image"),
                        "imagePullPolicy": "Never",
                        "command": filled_command(self.spec, self._config, step, f"{VOLUME}/root", f"{VOLUME}/root"),
                        "env": container.pop("env", []),
                        "resources": resources,
                        "securityContext": {**ADDED, **security, "readOnlyRootFilesystem": True},
                        "volumeMounts": [
                            *({"name": each, "mountPath": path} for each, path in [*claims, *secrets]),
                            {"name": "tmp", "mountPath": "/tmp"},
                        ],
                    }
                ],
            },
        }
        assert not container.keys() - {"command", "args"}, f"{step}: {container.keys()}"
        assert not platform, f"{step}: {platform.keys()}"
        return json.loads(json.dumps(pod))
