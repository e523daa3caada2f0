"""RunConfig: one frozen tree made of each component's own section; TOML in, JSON out, `--set a.b=c`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from components.common.addresses import is_address, local_path
from components.common.artifacts import digest_of
from components.common.command import explain
from components.common.errors import ConfigError
from components.common.section import FolderPath, Section
from components.evaluate.config import EvaluateConfig
from components.ingest.config import IngestConfig
from components.push.config import PushConfig
from components.tpu_check.chips import CHIPS
from components.tpu_check.config import TpuCheckConfig
from components.train.config import TrainConfig, check_batch_divides
from components.validate.config import ValidateConfig
from pipeline.platforms import check_tensorflow_runs, find_slice, find_training_row


class RunSection(Section):
    """Where a run keeps what it makes."""

    dir: FolderPath = Field("runs", min_length=1, description="Folder of all runs; each gets runs/<id>/.")
    work_dir: FolderPath = Field("", description="Checkpoints, cache and journal, shared by all runs; empty: run.dir/.work.")


class DeploySection(Section):
    """What remote targets need to know; local runs do not look at it."""

    image: str = Field("localhost/wgan-tpu-pipeline:python3.11", min_length=1, description="The image that holds this package.")
    tpu_image: str = Field(
        "localhost/wgan-tpu-pipeline:train-tpu", min_length=1, description="The image of train on a TPU: it has tensorflow-tpu."
    )
    require_digests: bool = Field(False, description="Refuse images that are not named by digest (NAME@sha256:…): production.")
    cpu: str = Field("2", pattern=r"^\d+(\.\d+)?m?$", description="Processors of each step: asked for, on Vertex the least.")
    memory: str = Field(
        "8G", pattern=r"^\d+(\.\d+)?[KMGT]i?$", description="Memory of each step: asked for, on Vertex the least."
    )
    timeout_hours: float = Field(
        48.0, gt=0.0, le=720.0, description="A step that takes longer is ended (Kubeflow; Vertex: train on a TPU)."
    )
    retries: int = Field(2, ge=0, le=10, description="How often ingest, train, evaluate and push are tried again.")
    service_account: str = Field(
        "",
        description="What steps run as: a Kubernetes account, on Vertex NAME@PROJECT.iam.gserviceaccount.com; empty: its own.",
    )
    volume_claim: str = Field("", description="Kubeflow: the PersistentVolumeClaim that is mounted at run.dir.")
    google_key_secret: str = Field(
        "", description="Kubeflow: the Secret with key.json, a Google account's, where the cluster has no workload identity."
    )
    pipeline_root: str = Field(
        "", pattern=r"^(gs://[^/]+.*)?$", description="Vertex: the gs:// folder of what steps make; needed to submit."
    )
    network: str = Field(
        "",
        pattern=r"^(projects/[^/]+/global/networks/[^/]+)?$",
        description="Vertex: the network that steps are peered with, projects/NUMBER/global/networks/NAME.",
    )
    kms_key: str = Field(
        "",
        pattern=r"^(projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+)?$",
        description="Vertex: the key (CMEK) that runs are encrypted with, of the same region; the bucket has its own.",
    )
    tensorboard: str = Field(
        "",
        pattern=r"^(projects/[^/]+/locations/[^/]+/tensorboards/[^/]+)?$",
        description="Vertex: the TensorBoard that is shown train's events, on a TPU; it needs deploy.service_account.",
    )
    tpu_platform: Literal["any", "gke", "vertex"] = Field(
        "any", description="Who rents the TPU out: what does not train there is refused when this is read. any: when compiling."
    )
    tpu_topology: str = Field("v5e:2x4", description="The slice train runs on when train.devices is a TPU.")
    tpu_check: bool = Field(
        True, description="Before train on a TPU (v4 and later), compile it for the slice on a CPU machine."
    )
    tpu_check_image: str = Field(
        "localhost/wgan-tpu-pipeline:tpu-check", min_length=1, description="The image of tpu_check: it has the extra tpu-check."
    )
    tpu_spot: bool = Field(False, description="Train on spot machines: cheaper, and taken away when others pay more.")

    @model_validator(mode="after")
    def _tensorboard_can_be_written(self) -> Self:
        if self.tensorboard and not self.service_account:
            raise ValueError("deploy.tensorboard needs deploy.service_account: Vertex writes there as that account")
        if self.tensorboard and not self.pipeline_root:
            raise ValueError("deploy.tensorboard needs deploy.pipeline_root: Vertex reads the events there")
        return self

    @field_validator("tpu_topology")
    @classmethod
    def _known_slice(cls, name: str) -> str:
        return find_slice(name).name


class RunConfig(Section):
    """Everything a run depends on."""

    model_config = ConfigDict(populate_by_name=True)

    run: RunSection = RunSection()
    ingest: IngestConfig = IngestConfig()
    validation: ValidateConfig = Field(ValidateConfig(), alias="validate")  # BaseModel has a method `validate`
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    push: PushConfig = PushConfig()
    deploy: DeploySection = DeploySection()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.evaluate.kid_subset_size > min(self.evaluate.samples, self.evaluate.real_images):
            raise ValueError(
                f"evaluate.kid_subset_size = {self.evaluate.kid_subset_size} is more than evaluate.samples ="
                f" {self.evaluate.samples} or evaluate.real_images = {self.evaluate.real_images}"
            )
        if self.train.devices.startswith("tpu"):
            _check_tpu_trains(self.deploy)
            check_batch_divides(self.train.global_batch_size, find_slice(self.deploy.tpu_topology).replicas)
        return self

    def sections(self) -> dict[str, Section]:
        """Return the section of each step by the step's name, in the order of the steps."""
        known = self.deploy.tpu_topology.partition(":")[0] in CHIPS
        checked = self.train.devices.startswith("tpu") and self.deploy.tpu_check and known
        return {
            "ingest": self.ingest,
            "validate": self.validation,
            **({"tpu_check": self.for_tpu_check()} if checked else {}),
            "train": self.train,
            "evaluate": self.evaluate,
            "push": self.push,
        }

    def for_tpu_check(self, topology: str = "") -> TpuCheckConfig:
        """Return what tpu_check needs to know, for deploy.tpu_topology or another slice. Raises ValidationError."""
        return TpuCheckConfig(
            topology=topology or self.deploy.tpu_topology,
            image_size=self.ingest.image_size,
            channels=self.ingest.channels,
            train=self.train,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the whole tree as JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def work_dir(self) -> Path:
        """Where checkpoints, cache and journal live."""
        return Path(self.run.work_dir or Path(self.run.dir) / ".work")

    @property
    def registry(self) -> str:
        """Where versions and the champion pointer live: a folder or an address."""
        return self.push.registry or str(Path(self.run.dir) / "registry")

    @property
    def history(self) -> Path:
        """Where the accepted snapshots of this source live: another source is no drift."""
        return Path(self.validation.history or Path(self.run.dir) / "snapshots" / _folder_name(self.ingest.source))


def _check_tpu_trains(deploy: DeploySection) -> None:
    """Refuse a slice on which training is known to fail, before it is paid for. Raises ValueError."""
    try:
        if deploy.tpu_platform == "any":
            check_tensorflow_runs(deploy.tpu_topology)
        else:
            find_training_row(deploy.tpu_platform, deploy.tpu_topology)
    except ValueError as error:
        raise ValueError(f"deploy.tpu_topology = {deploy.tpu_topology!r}: {error}") from None


def load_config(file: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file (None: all defaults) and apply `a.b=c` overrides. Raises ConfigError that names key, value, cure."""
    content = _read_toml(file) if file else {}
    for override in overrides:
        _apply(content, override)
    try:
        return RunConfig.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        made_of = " ".join([*([str(file)] if file else []), *(f"--set {override}" for override in overrides)])
        raise ConfigError(f"The configuration ({made_of}) is wrong: {explain(error, RunConfig)}") from None


def resolve_paths(config: RunConfig) -> RunConfig:
    """Return the config with every local path absolute, so that a step run in another folder means the same."""
    source = config.ingest.source
    place = source.removeprefix("images:")
    if place != source and not is_address(place):
        source = f"images:{_absolute(local_path(place))}"
    paths = {name: _absolute(getattr(config.ingest, name)) for name in ("tfds_manual_dir", "tfds_data_dir")}
    ingest = config.ingest.model_copy(update={"source": source, **paths})
    folders = {"dir": _absolute(config.run.dir), "work_dir": _absolute(str(config.work_dir))}
    return with_folders(config.model_copy(update={"ingest": ingest, "run": RunSection(**folders)}))


def with_folders(config: RunConfig) -> RunConfig:
    """Return the config with the folders of history and registry named, as the steps need them."""
    validation = config.validation.model_copy(update={"history": _absolute(str(config.history))})
    registry = _place(config.registry)
    push = config.push.model_copy(update={"registry": registry})
    start = registry if config.train.start_from == "champion" else _place(config.train.start_from)
    train = config.train.model_copy(update={"start_from": start})
    return config.model_copy(update={"validation": validation, "push": push, "train": train})


def _folder_name(source: str) -> str:
    """Return a source as the name of a folder: readable, and another one for each source."""
    name = re.sub(r"[^a-z0-9_.]+", "-", source.lower()).strip("-.")[-40:]
    return name if name == source else f"{name}-{digest_of(source)[:8]}"


def _place(place: str) -> str:
    return place if is_address(place) else _absolute(local_path(place))


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else path


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {file}.", "The ones that ship are in configs/.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}.") from None


def _apply(content: dict[str, Any], override: str) -> None:
    """Put one `a.b=c` into the tree; c is a TOML value where it parses as one, else a string."""
    key, separator, text = override.partition("=")
    *parents, leaf = key.strip().split(".")
    if not separator or not parents:
        raise ConfigError(f"--set {override} is not of the form section.key=value.", "For instance --set train.rounds=100.")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {override}: {parent} is no section.")
    content[leaf] = _toml_value(text)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
