"""The [evaluate] section."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from components.common.section import Section

GRAPH_URL = "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz"
KINDS = ("default", "inception")


class EvaluateConfig(Section):
    """How samples are scored against real images."""

    samples: int = Field(2000, ge=100, description="Number of samples to draw from the generator.")
    real_images: int = Field(10_000, ge=100, description="Most training images to compare with (the first ones are taken).")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the samples and of the random subsets.")
    extractor: str = Field(
        "default",
        description="Network that computes features: default (trained on the training images), inception (InceptionV3), or "
        "savedmodel:PATH.",
    )
    extractor_weights: str = Field(
        "",
        description="inception: file with its weights: classify_image_graph_def.pb, the graph of published FIDs, or those of "
        "Keras' InceptionV3 without the classification layer.",
    )
    download_weights: bool = Field(False, description="inception: let Keras download its weights, and check their digest.")
    extractor_digest: str = Field("", description="inception, savedmodel: digest that the weights must have; empty: any.")
    extractor_range: Literal["0..255", "0..1", "-1..1"] = Field(
        "0..255", description="savedmodel: range of the pixel values that it takes. inception always takes -1..1."
    )
    extractor_epochs: int = Field(12, ge=1, description="default: most training epochs.")
    kid_subsets: int = Field(50, ge=2, description="Number of random subsets of samples for KID's standard error (jackknife).")
    kid_subset_size: int = Field(500, ge=10, description="Samples in a subset; at most half of all samples are used.")
    neighbours_k: int = Field(5, ge=1, description="k of precision, recall, density and coverage.")
    neighbour_rows: int = Field(8, ge=1, le=32, description="Samples that are shown beside their nearest training images.")

    @field_validator("extractor")
    @classmethod
    def _check_extractor(cls, extractor: str) -> str:
        if extractor not in KINDS and not (extractor.startswith("savedmodel:") and extractor != "savedmodel:"):
            raise ValueError(f"use {', '.join(KINDS)} or savedmodel:PATH")
        return extractor

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        external = self.extractor == "inception" or self.extractor.startswith("savedmodel:")
        if self.extractor != "inception" and (self.extractor_weights or self.download_weights):
            raise ValueError(f'extractor_weights and download_weights need extractor = "inception", not "{self.extractor}"')
        if not external and self.extractor_digest:
            raise ValueError(f'extractor_digest needs extractor = "inception" or "savedmodel:PATH", not "{self.extractor}"')
        if self.extractor == "inception" and not self.extractor_weights and not self.download_weights:
            raise ValueError(
                f'extractor = "inception" needs extractor_weights = FILE, or download_weights = true for those of Keras; '
                f"the FID of papers needs the file classify_image_graph_def.pb from {GRAPH_URL}"
            )
        return self
