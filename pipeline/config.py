"""RunConfig: one frozen tree with the section of each component, read from TOML and from `--set a.b=c`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.common.addresses import is_address, joined, local_path
from components.common.artifacts import digest_of
from components.common.command import explain
from components.common.errors import ConfigError
from components.common.section import Section, StoreLocation
from components.evaluate.config import EvaluateConfig
from components.gate.config import GateConfig, GateTask
from components.ingest.config import IngestConfig
from components.push.config import PushConfig
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.slices import find_slice
from components.train.config import TrainConfig, check_batch_divides
from components.validate.config import ValidateConfig
from pipeline.platforms import check_tensorflow_runs, find_training_row


class RunSection(Section):
    """Where a run stores its results."""

    dir: StoreLocation = Field(
        "runs",
        min_length=1,
        description="Folder, gs:// or s3:// URL of all runs; each run has a subfolder named by its id. "
        "Local runs need a folder.",
    )
    work_dir: StoreLocation = Field(
        "", description="Folder or URL of checkpoints, caches and journal, shared by all runs; empty: run.dir/.work."
    )


def _number_as_text(value: object) -> object:
    """Return a number as text: a quantity of Kubernetes is a string, but TOML and --set read cpu = 1 as a number."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_unit(memory: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]i?", memory):
        raise ValueError("write a number with a unit, such as 8G or 8Gi")
    return memory


class DeploySection(Section):
    """Settings of the remote platforms; local runs ignore them, except deploy.image with --runner docker."""

    image: str = Field("localhost/wgan-tpu-pipeline:python3.11", min_length=1, description="Image of the steps.")
    tpu_image: str = Field(
        "localhost/wgan-tpu-pipeline:train-tpu",
        min_length=1,
        description="Container image of train on a TPU, with tensorflow-tpu.",
    )
    require_digests: bool = Field(False, description="Refuse images that are not named by digest (NAME@sha256:…).")
    cpu: Annotated[str, BeforeValidator(_number_as_text)] = Field(
        "2", pattern=r"^\d+(\.\d+)?m?$", description="CPU request of each step (on Vertex: the minimum)."
    )
    memory: Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_check_unit)] = Field(
        "8G", description="Memory request of each step (on Vertex: the minimum)."
    )
    timeout_hours: float = Field(
        48.0, gt=0.0, le=720.0, description="Time limit of a step (Kubeflow: every step; Vertex: train on a TPU)."
    )
    retries: int = Field(2, ge=0, le=10, description="Retries of ingest, train, evaluate, gate and push.")
    service_account: str = Field(
        "",
        description="Account of the steps: a Kubernetes service account, or on Vertex NAME@PROJECT.iam.gserviceaccount.com; "
        "empty: the platform's default.",
    )
    volume_claim: str = Field(
        "", description="Kubeflow: PersistentVolumeClaim to mount at run.dir; required unless that is a URL."
    )
    s3_secret: str = Field(
        "",
        description="Kubeflow: Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or Kubeflow's own "
        "mlpipeline-minio-artifact, for s3:// URLs; empty: the identity of the service account.",
    )
    s3_endpoint: str = Field(
        "", pattern=r"^(https?://\S+)?$", description="Kubeflow: URL of the S3 server, unless it is Amazon's."
    )
    s3_region: str = Field("", description="Kubeflow: region of the S3 server, if it checks that of requests.")
    google_key_secret: str = Field(
        "", description="Kubeflow: Secret with the key.json of a Google account, for clusters without workload identity."
    )
    pipeline_root: str = Field(
        "", pattern=r"^(gs://[^/]+.*)?$", description="Vertex: gs:// folder of the steps' outputs; required to submit."
    )
    network: str = Field(
        "",
        pattern=r"^(projects/[^/]+/global/networks/[^/]+)?$",
        description="Vertex: network to peer the steps with, projects/NUMBER/global/networks/NAME.",
    )
    kms_key: str = Field(
        "",
        pattern=r"^(projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+)?$",
        description="Vertex: encryption key of the runs (CMEK), in the same region; the bucket has its own key.",
    )
    tensorboard: str = Field(
        "",
        pattern=r"^(projects/[^/]+/locations/[^/]+/tensorboards/[^/]+)?$",
        description="Vertex: TensorBoard instance for train on a TPU; needs deploy.service_account.",
    )
    tpu_platform: Literal["any", "gke", "vertex"] = Field(
        "any", description="TPU provider; unsupported slices are refused when the config is read. any: refused when compiling."
    )
    tpu_topology: str = Field("v5e:2x4", description="TPU slice of train when train.devices is a TPU, such as v5e:2x4.")
    tpu_check: bool = Field(
        True, description="Before training on a TPU (v4 and later), compile the training for the slice on a CPU machine."
    )
    tpu_check_rounds: int = Field(
        0,
        ge=0,
        le=1000,
        description="Rounds that tpu_check also executes, at a smaller size, on virtual replicas of its machine, and compares "
        "with its CPU; 0: none.",
    )
    tpu_check_image: str = Field(
        "localhost/wgan-tpu-pipeline:tpu-check",
        min_length=1,
        description="Image of tpu_check, with the extra tpu-check.",
    )
    tpu_spot: bool = Field(False, description="Train on spot machines: cheaper, but they can be preempted.")

    @model_validator(mode="after")
    def _tensorboard_can_be_written(self) -> Self:
        if self.tensorboard and not self.service_account:
            raise ValueError("deploy.tensorboard needs deploy.service_account, the account that writes the events")
        if self.tensorboard and not self.pipeline_root:
            raise ValueError("deploy.tensorboard needs deploy.pipeline_root, the folder of the events")
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
    gate: GateConfig = GateConfig()
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
        """Return the section of each step by name, in the order of the steps."""
        compiles = find_slice(self.deploy.tpu_topology).generation.peaks is not None
        checked = self.train.devices.startswith("tpu") and self.deploy.tpu_check and compiles
        return {
            "ingest": self.ingest,
            "validate": self.validation,
            **({"tpu_check": self.for_tpu_check()} if checked else {}),
            "train": self.train,
            "evaluate": self.evaluate,
            "gate": GateTask(**self.gate.rule(), registry=self.push.registry),
            "push": self.push,
        }

    def for_tpu_check(self, topology: str = "") -> TpuCheckConfig:
        """Return the section of tpu_check, for deploy.tpu_topology or another slice. Raises ValidationError."""
        return TpuCheckConfig(
            topology=topology or self.deploy.tpu_topology,
            image_size=self.ingest.image_size,
            channels=self.ingest.channels,
            execute_rounds=self.deploy.tpu_check_rounds,
            train=self.train,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the whole tree as JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def work_dir(self) -> str:
        """The folder or URL of checkpoints, caches and journal."""
        return self.run.work_dir or joined(self.run.dir, ".work")

    @property
    def registry(self) -> str:
        """The folder or URL of the published versions and the champion pointer."""
        return self.push.registry or joined(self.run.dir, "registry")

    @property
    def history(self) -> str:
        """The folder or URL of the accepted snapshots of this source; each source has its own."""
        return self.validation.history or joined(self.run.dir, "snapshots", _folder_name(self.ingest.source))


def _check_tpu_trains(deploy: DeploySection) -> None:
    """Raise ValueError for a slice on which training is known to fail."""
    try:
        if deploy.tpu_platform == "any":
            check_tensorflow_runs(deploy.tpu_topology)
        else:
            find_training_row(deploy.tpu_platform, deploy.tpu_topology)
    except ValueError as error:
        raise ValueError(f"deploy.tpu_topology = {deploy.tpu_topology!r}: {error}") from None


def load_config(file: Path | None, overrides: Sequence[str] = (), chosen: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a TOML file (None: all defaults) and apply `a.b=c` overrides. Raises ConfigError.

    `chosen` are values by key (a.b) in place of the defaults.
    """
    content = _read_toml(file) if file else {}
    for key, value in (chosen or {}).items():
        section, _, leaf = key.partition(".")
        content.setdefault(section, {})[leaf] = value
    return _validated(content, overrides, str(file) if file else "")


def override_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return a config with `a.b=c` overrides. Raises ConfigError."""
    return _validated(config.as_dict(), overrides)


def _validated(content: dict[str, Any], overrides: Sequence[str], source: str = "") -> RunConfig:
    for override in overrides:
        _apply(content, override)
    try:
        return RunConfig.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        sources = " ".join([*([source] if source else []), *(f"--set {override}" for override in overrides)])
        raise ConfigError(f"The configuration ({sources}) is invalid: {explain(error, RunConfig)}") from None


def shipped_config(name: str) -> Path:
    """Return a config that ships with the program, from the checkout or from the installed package."""
    package = Path(__file__).parent
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"This installation lacks {name}.", "Name a config file.")


def as_toml(config: RunConfig, comment: Sequence[str] = ()) -> str:
    """Return a TOML file with all values that differ from their defaults, after lines of comment."""
    lines = [f"# {line}" for line in comment]
    for section, values in config.model_dump(mode="json", by_alias=True, exclude_defaults=True).items():
        lines += ["", f"[{section}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def resolve_paths(config: RunConfig) -> RunConfig:
    """Return the config with absolute local paths, so that steps can run in another folder."""
    source = config.ingest.source
    if source.startswith("images:"):
        source = f"images:{_absolute_location(source.removeprefix('images:'))}"
    paths = {name: _absolute(getattr(config.ingest, name)) for name in ("tfds_manual_dir", "tfds_data_dir")}
    ingest = config.ingest.model_copy(update={"source": source, **paths})
    folders = {"dir": _absolute_location(config.run.dir), "work_dir": _absolute_location(config.work_dir)}
    return with_folders(config.model_copy(update={"ingest": ingest, "run": RunSection(**folders)}))


def with_folders(config: RunConfig) -> RunConfig:
    """Return the config with explicit locations of history and registry, as the steps need them."""
    validation = config.validation.model_copy(update={"history": _absolute_location(config.history)})
    registry = _absolute_location(config.registry)
    push = config.push.model_copy(update={"registry": registry})
    start = registry if config.train.start_from == "champion" else _absolute_location(config.train.start_from)
    train = config.train.model_copy(update={"start_from": start})
    return config.model_copy(update={"validation": validation, "push": push, "train": train})


def _folder_name(source: str) -> str:
    """Return a readable folder name that differs for each source."""
    name = re.sub(r"[^a-z0-9_.]+", "-", source.lower()).strip("-.")[-40:]
    return name if name == source else f"{name}-{digest_of(source)[:8]}"


def _absolute_location(location: str) -> str:
    return location if is_address(location) else _absolute(local_path(location))


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else path


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {file}.", "Examples are in configs/.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}.") from None


def override_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of `a.b=c` overrides by key. Raises ConfigError."""
    values = {}
    for override in overrides:
        _apply({}, override)
        key, _, text = override.partition("=")
        values[key.strip()] = _toml_value(text)
    return values


def _apply(content: dict[str, Any], override: str) -> None:
    """Set one `a.b=c` in the tree; c is a TOML value if it parses as one, else a string."""
    key, separator, text = override.partition("=")
    *parents, leaf = key.strip().split(".")
    if not separator or not parents:
        raise ConfigError(f"--set {override} is not of the form section.key=value.", "Write it as --set train.rounds=100.")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section.")
    content[leaf] = _toml_value(text)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
