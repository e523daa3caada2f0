"""What a run of a compiled pipeline can change: a few settings as typed parameters, and every other key as an override.

One table for the form of Kubeflow and Vertex AI, the step `snapshot`, which resolves them, and the options of the command line.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.common.errors import ConfigError
from pipeline.config import RunConfig, override_config, with_folders
from pipeline.mounts import CHECKS, locations

OVERRIDES = "overrides"
FIXED_SECTIONS = ("run", "deploy")  # they are in the settings of the pods: image, volume, mount, machines


class Parameter(NamedTuple):
    """A setting with a name and a type of its own; `section` and `key` are its place in the config."""

    name: str
    section: str
    key: str

    @property
    def type(self) -> type:
        """str, int or bool."""
        return type(self.value(RunConfig()))

    @property
    def help(self) -> str:
        """The description of the key."""
        section = type(getattr(RunConfig(), self.section))
        return str(section.model_fields[self.key].description)

    def value(self, config: RunConfig) -> Any:
        """Return the value in a config."""
        return getattr(getattr(config, self.section), self.key)

    def override(self, value: Any) -> str:
        """Return the override SECTION.KEY=VALUE that sets this value."""
        return f"{self.section}.{self.key}={json.dumps(value, ensure_ascii=False)}"


PARAMETERS = (
    Parameter("source", "ingest", "source"),
    Parameter("image_size", "ingest", "image_size"),
    Parameter("rounds", "train", "rounds"),
    Parameter("batch", "train", "global_batch_size"),
    Parameter("seed", "train", "seed"),
    Parameter("devices", "train", "devices"),
    Parameter("publish", "push", "publish"),
)


def parameter_values(config: RunConfig) -> dict[str, Any]:
    """Return the value of each typed parameter in a config, by name."""
    return {each.name: each.value(config) for each in PARAMETERS}


def pipeline_parameters(config: RunConfig) -> list[inspect.Parameter]:
    """Return the parameters of a compiled pipeline: the typed ones with the values of a config as defaults, and overrides."""
    defaults = {each.name: (each.type, each.value(config)) for each in PARAMETERS} | {OVERRIDES: (list, [])}
    return [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)
        for name, (annotation, default) in defaults.items()
    ]


def pipeline_docstring() -> str:
    """Return the description of a compiled pipeline and of its parameters, in the form that KFP reads."""
    helps = {each.name: each.help for each in PARAMETERS} | {OVERRIDES: "Other keys, as SECTION.KEY=VALUE, which win."}
    lines = ["Ingest, validate, train a WGAN-GP, evaluate, gate, push if better.", "", "Args:"]
    return "\n".join([*lines, *(f"  {name}: {text}" for name, text in helps.items())])


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return the overrides that set these parameters, by name; None leaves a parameter as it is."""
    return [each.override(values[each.name]) for each in PARAMETERS if values.get(each.name) is not None]


def resolve_run(base: RunConfig, parameters: Mapping[str, Any], overrides: Sequence[object], target: str) -> RunConfig:
    """Return the config of one run of a pipeline that was compiled from `base` for `target`; overrides win over parameters.

    Raises ConfigError for an invalid value, a setting that is fixed when the pipeline is compiled, and a folder that the
    target does not mount.
    """
    before = parameter_values(base)
    changed = {name: value for name, value in parameters.items() if value != before[name]}
    config = override_config(base, [*as_overrides(changed), *map(str, overrides)])
    _check_fixed(base, config)
    if locations(config) != locations(base):  # those of the file were checked when it was compiled
        CHECKS[target](config)
    return with_folders(config)


def runtime_parameters(base: RunConfig, overrides: Sequence[str], target: str) -> dict[str, Any]:
    """Return the parameters with which a run of a compiled pipeline has these overrides. Raises ConfigError as resolve_run."""
    before, after = parameter_values(base), parameter_values(resolve_run(base, {}, overrides, target))
    typed = {f"{each.section}.{each.key}" for each in PARAMETERS}
    others = [override for override in overrides if override.partition("=")[0].strip() not in typed]
    changed = {name: value for name, value in after.items() if value != before[name]}
    return changed | ({OVERRIDES: others} if others else {})


def _check_fixed(base: RunConfig, config: RunConfig) -> None:
    """Raise ConfigError for a setting that the compiled file has in other places than the config."""
    for section in FIXED_SECTIONS:
        before = getattr(base, section)
        for key, value in getattr(config, section):
            _check_same(f"{section}.{key}", getattr(before, key), value, same=value == getattr(before, key))
    kinds = [each.train.devices.partition(":")[0] for each in (base, config)]
    _check_same("train.devices", base.train.devices, config.train.devices, same=kinds[0] == kinds[1])


def _check_same(key: str, before: object, value: object, *, same: bool) -> None:
    if not same:
        raise ConfigError(
            f"{key} = {value!r} cannot be set for a run of a compiled pipeline, which was compiled with {before!r}.",
            f"Compile it again with --set {key}={value}.",
        )
