"""From a location of images to the configuration of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from components.common.errors import DeviceError
from components.train.devices.gpu_runtime import check_driver, check_packages
from pipeline.config import RunConfig, load_config, override_values, resolve_paths
from pipeline.images.choose import choose, choose_rounds, lines_as_text
from pipeline.images.look import look_at
from pipeline.images.speed import Request, seconds_a_round


class ChosenConfig(NamedTuple):
    """A configuration, and a line for each choice with its reason."""

    config: RunConfig
    lines: list[str]


def configure(location: str, minutes: float, overrides: Sequence[str]) -> ChosenConfig:
    """Return the configuration for the images of a location; `overrides` (section.key=value) win over all choices.

    `minutes` are those of training. Raises ConfigError, DataRejectedError if the images cannot be used, and DeviceError.
    """
    asked = override_values(overrides)
    source = resolve_paths(load_config(None, (), {"ingest.source": f"images:{location}"})).ingest.source
    look = look_at(location)
    made = choose(look, source, asked, find_devices())
    config = load_config(None, overrides, made.settings)
    # Images of another size cannot be compared with these, nor can models of them.
    shape = f"{config.ingest.image_size}x{config.ingest.image_size}x{config.ingest.channels}"
    name = f"{Path(config.history).name}-{shape}"
    made.set("validate.history", f"{config.run.dir}/snapshots/{name}")
    registry = f"{config.run.dir}/registry-{name}"
    made.choose("Registry", "push.registry", registry, f"{registry}, for models of these images at this size")
    measured = None
    if "train.rounds" not in asked:
        classes = len(look.labels) if config.train.conditional else 0
        request = Request(
            train=config.train, image_size=config.ingest.image_size, channels=config.ingest.channels, classes=classes
        )
        measured = seconds_a_round(request)
    choose_rounds(made, config.train, minutes, measured)
    return ChosenConfig(load_config(None, overrides, made.settings), lines_as_text(made))


def find_devices() -> str:
    """Return the value of train.devices for this machine: gpu if it has one that TensorFlow can use, else cpu:1.

    cpu:1 uses all cores. A TPU is never chosen: it needs a slice and checks of its own (docs/tpu.md).
    """
    try:
        check_driver()
        check_packages()
    except DeviceError:
        return "cpu:1"
    return "gpu" if os.environ.get("CUDA_VISIBLE_DEVICES", "0") else "cpu:1"
