"""The [evaluate] section."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from components.common.section import Section

KINDS = ("auto", "classifier", "random", "inception")


class EvaluateConfig(Section):
    """How samples are scored against real images."""

    samples: int = Field(2000, ge=100, description="Images drawn from the generator.")
    real_images: int = Field(10_000, ge=100, description="At most so many training images, the first by shard order.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of the samples and of the subsets.")
    extractor: str = Field(
        "auto",
        description="Features: classifier (trained on the labels), random (fixed convolutions), inception (InceptionV3), or "
        "savedmodel:PATH; auto: by labels.",
    )
    extractor_weights: str = Field("", description="inception: file with its weights, without the classification layer.")
    download_weights: bool = Field(False, description="inception: Keras may download its weights where no file is named.")
    extractor_digest: str = Field("", description="inception, savedmodel: refuse weights of another digest; empty: any.")
    extractor_range: Literal["0..255", "0..1", "-1..1"] = Field(
        "0..255", description="savedmodel: the values that it takes; inception always takes -1..1."
    )
    extractor_epochs: int = Field(12, ge=1, description="Passes over the training images for the classifier.")
    kid_subsets: int = Field(50, ge=2, description="Random subsets of samples, each left out in turn, for KID's error.")
    kid_subset_size: int = Field(500, ge=10, description="Samples per subset; at most half of them.")
    neighbours_k: int = Field(5, ge=1, description="k of precision, recall, density and coverage.")
    neighbour_rows: int = Field(8, ge=1, le=32, description="Samples whose nearest training images are shown.")

    @field_validator("extractor")
    @classmethod
    def _known_extractor(cls, extractor: str) -> str:
        if extractor not in KINDS and not (extractor.startswith("savedmodel:") and extractor != "savedmodel:"):
            raise ValueError(f"use {', '.join(KINDS)} or savedmodel:PATH")
        return extractor

    @model_validator(mode="after")
    def _keys_of_one_extractor(self) -> Self:
        given = self.extractor == "inception" or self.extractor.startswith("savedmodel:")
        if self.extractor != "inception" and (self.extractor_weights or self.download_weights):
            raise ValueError(f'extractor_weights and download_weights need extractor = "inception", not "{self.extractor}"')
        if not given and self.extractor_digest:
            raise ValueError(f'extractor_digest needs extractor = "inception" or "savedmodel:PATH", not "{self.extractor}"')
        if self.extractor == "inception" and not self.extractor_weights and not self.download_weights:
            raise ValueError('extractor = "inception" needs extractor_weights = FILE, or download_weights = true')
        return self
