"""What a check needs to know; the pipeline makes it from the other sections."""

from __future__ import annotations

from pydantic import Field, field_validator

from components.common.section import Section
from components.tpu_check.slices import GENERATIONS, TpuSlice, find_slice, join_with_or
from components.train.config import TrainConfig

DEFAULT_TOPOLOGY = "v5e:2x4"


class TpuCheckConfig(Section):
    """A training and the slice it is meant for."""

    topology: str = Field(DEFAULT_TOPOLOGY, description="GENERATION:AXES, such as v5e:2x4, v4:2x2x1, v6e:2x4.")
    image_size: int = Field(8, ge=1, description="Height and width in pixels.")
    channels: int = Field(1, ge=1, description="Of the images.")
    images: int = Field(0, ge=0, description="Training images; 0: not known, then 100,000 or as many as are kept in memory.")
    classes: int = Field(10, ge=2, description="Labels that the networks see with train.conditional.")
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
