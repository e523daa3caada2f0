"""The inputs of a check; the pipeline fills them in from the other config sections."""

from __future__ import annotations

from pydantic import Field, field_validator

from components.common.section import Section
from components.tpu_check.slices import GENERATIONS, TpuSlice, find_slice, join_with_or
from components.train.config import TrainConfig

DEFAULT_TOPOLOGY = "v5e:2x4"


class TpuCheckConfig(Section):
    """A training, and the slice that it is checked for."""

    topology: str = Field(DEFAULT_TOPOLOGY, description="GENERATION:AXES, such as v5e:2x4, v4:2x2x1, v6e:2x4.")
    image_size: int = Field(8, ge=1, description="Height and width of the images in pixels.")
    channels: int = Field(1, ge=1, description="Channels of the images.")
    images: int = Field(
        0,
        ge=0,
        description="Training images. 0: unknown; assume 100,000, or the most that can be resident.",
    )
    classes: int = Field(10, ge=2, description="Number of labels, used with train.conditional.")
    execute_rounds: int = Field(
        0,
        ge=0,
        le=1000,
        description="Rounds to execute on virtual replicas on this machine and to compare with its CPU; 0: none.",
    )
    train: TrainConfig = TrainConfig()

    @field_validator("topology")
    @classmethod
    def _known_topology(cls, name: str) -> str:
        if find_slice(name).generation.peaks is None:
            known = [generation.name for generation in GENERATIONS.values() if generation.peaks]
            raise ValueError(f"the TPU compiler compiles for {join_with_or(known)} only")
        return name

    @property
    def slice(self) -> TpuSlice:
        """The slice that `topology` names."""
        return find_slice(self.topology)
