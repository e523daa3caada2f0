"""From a location of images to the configuration of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from components.common.errors import ConfigError, DeviceError
from components.train.devices.gpu_runtime import check_driver, check_packages
from pipeline.config import RunConfig, load_config, override_values, resolve_paths
from pipeline.images.choose import Choices, choose, choose_rounds
from pipeline.images.look import look_at
from pipeline.images.speed import measure_speed


def configure(
    location: str, minutes: float, overrides: Sequence[str], show: Callable[[str], None]
) -> tuple[RunConfig, list[str]]:
    """Return the configuration for the images of a location, and a line for each choice, which `show` gets at once.

    `minutes` are those of training; `overrides` (section.key=value) win over all choices.

    Raises ConfigError, DataRejectedError if no training is possible with the images, and DeviceError.
    """
    asked = override_values(overrides)
    if "ingest.source" in asked:
        raise ConfigError("--images and ingest.source both name the images.", "Use one of them.")
    of_ingest = [override for override in overrides if override.startswith("ingest.")]
    ingest = resolve_paths(load_config(None, of_ingest, {"ingest.source": f"images:{location}"})).ingest
    made = Choices(asked, show)
    choose(made, look_at(ingest), ingest.source, find_devices())
    config = load_config(None, overrides, made.settings)
    # Images of another size cannot be compared with these, nor can models of them.
    shape = f"{config.ingest.image_size}x{config.ingest.image_size}x{config.ingest.channels}"
    name = f"{Path(config.history).name}-{shape}"
    made.set("validate.history", f"{config.run.dir}/snapshots/{name}")
    registry = f"{config.run.dir}/registry-{name}"
    made.choose("Registry", "push.registry", registry, f"{registry}, for models of these images at this size")
    known = "train.rounds" in asked
    speed = None if known else measure_speed(config.train, config.ingest.image_size, config.ingest.channels)
    choose_rounds(made, config.train, minutes, speed)
    return load_config(None, overrides, made.settings), made.lines


def find_devices() -> str:
    """Return train.devices for this machine: gpu if TensorFlow can use one, else cpu:1, which uses all cores.

    A TPU is never chosen: it needs a slice and checks of its own (docs/tpu.md).
    """
    try:
        check_driver()
        check_packages()
    except DeviceError:
        return "cpu:1"
    return "gpu"
