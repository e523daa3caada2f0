"""The [evaluate] section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.section import Section


class EvaluateConfig(Section):
    """How samples are scored against real images."""

    samples: int = Field(2000, ge=100, description="Images drawn from the generator.")
    real_images: int = Field(10_000, ge=100, description="At most so many training images, the first by shard order.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of the samples and of the subsets.")
    extractor: Literal["auto", "classifier", "random"] = Field(
        "auto",
        description="Features: a classifier trained on the labels, or random convolutions. auto: by labels.",
    )
    extractor_epochs: int = Field(12, ge=1, description="Passes over the training images for the classifier.")
    kid_subsets: int = Field(50, ge=2, description="Random subsets of samples, each left out in turn, for KID's error.")
    kid_subset_size: int = Field(500, ge=10, description="Samples per subset; at most half of them.")
    neighbours_k: int = Field(5, ge=1, description="k of precision, recall, density and coverage.")
    neighbour_rows: int = Field(8, ge=1, le=32, description="Samples whose nearest training images are shown.")
