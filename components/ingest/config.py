"""The [ingest] section."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from components.common.addresses import is_address
from components.common.section import Section

LOCAL_RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
SOURCE_FORMS = '"digits", "tfds:NAME" or "images:LOCATION"'
LOCATIONS = "a folder, a pattern, a .zip, .tar or .tar.gz, or a .csv or .jsonl list; a local path or a URL such as gs://…"


class Decoding(NamedTuple):
    """How images are decoded: height and width in pixels, 1 channel (grey) or 3 (RGB), resizing, and limits."""

    image_size: int
    channels: int
    resize: str = "lanczos"
    fit: str = "crop"
    max_pixels: int = 89_478_485
    max_seconds: float = 30.0
    perceptual_hashes: bool = False  # whether they are computed


class IngestConfig(Section):
    """Where images come from, and how they are prepared."""

    source: str = Field("digits", description=f"{SOURCE_FORMS}; LOCATION is {LOCATIONS}.")
    tfds_manual_dir: str = Field("", description="Folder with the files that TFDS would download; empty: TFDS downloads them.")
    tfds_data_dir: str = Field("", description="Where TFDS stores prepared datasets; empty: the default of TFDS.")
    tfds_split: str = Field("train", description="The TFDS split to read, such as train, train[:80%] or train+test.")
    tfds_eval_split: str = Field("", description="A TFDS split to hold out as a whole; empty: hold images out by hash.")
    labels_from_folders: bool = Field(False, description="images: use the name of an image's folder as its label.")
    max_bytes: int = Field(2**28, ge=1, lt=2**40, description="Larger files are quarantined unread.")
    image_size: Literal[8, 16, 28, 32, 64, 128] = Field(8, description="Height and width in pixels after resizing.")
    channels: Literal[1, 3] = Field(1, description="1 grey, 3 RGB.")
    resize: Literal["lanczos", "area"] = Field("lanczos", description="Filter for resizing; both are antialiased.")
    fit: Literal["crop", "pad"] = Field("crop", description="Crop to the centre square, or pad the whole image with black.")
    max_pixels: int = Field(89_478_485, ge=1, description="Images with more pixels in their header are not decoded.")
    max_seconds_per_image: float = Field(30.0, gt=0.0, description="Images that take longer to decode are quarantined.")
    near_duplicates: int = Field(
        -1,
        ge=-1,
        le=16,
        description="Images are duplicates if their 64-bit perceptual hashes differ in at most this many bits; -1: off.",
    )
    eval_fraction: float = Field(0.2, gt=0.0, lt=1.0, description="Share of images held out, chosen by hash.")
    shards: int = Field(4, ge=1, le=10_000, description="Files per split.")
    max_quarantine_fraction: float = Field(
        0.05, ge=0.0, le=1.0, description="If a larger share of the images is unreadable, the run ends with exit code 3."
    )
    beam_options: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Options passed to Beam unchanged; empty: run on this machine, on all cores for large sources.",
    )
    shared_folder: str = Field(
        "",
        description="URL such as gs://BUCKET/ingest through which workers on other machines share files; empty: a folder "
        "beside the output, which all workers must see under the same path.",
    )

    @field_validator("shared_folder")
    @classmethod
    def _a_url(cls, location: str) -> str:
        if location and not is_address(location):
            raise ValueError(f'"{location}" is not a URL such as gs://BUCKET/ingest; leave it empty for a shared disk')
        return location

    @field_validator("source")
    @classmethod
    def _known_form(cls, source: str) -> str:
        kind, _, rest = source.partition(":")
        if source != "digits" and not (kind in {"tfds", "images"} and rest):
            raise ValueError(f"use {SOURCE_FORMS}")
        return source

    @model_validator(mode="after")
    def _keys_match_the_source(self) -> Self:
        if not self.source.startswith("tfds:") and (self.tfds_manual_dir or self.tfds_data_dir or self.tfds_eval_split):
            raise ValueError(f'the tfds_* keys need source = "tfds:NAME", not "{self.source}"')
        if self.labels_from_folders and not self.source.startswith("images:"):
            raise ValueError(f'labels_from_folders needs source = "images:LOCATION", not "{self.source}"')
        if self.labels_from_folders and self.source.lower().endswith((".csv", ".jsonl")):
            raise ValueError(f'labels_from_folders: the labels of "{self.source}" are in its label column')
        return self
