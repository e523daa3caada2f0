"""The [ingest] section."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from components.common.addresses import is_address
from components.common.section import Section

LOCAL_RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
SOURCE_FORMS = '"digits", "tfds:NAME" or "images:PLACE"'
PLACES = "a folder, a pattern, a .zip, .tar or .tar.gz, a .csv or .jsonl list, on this disk or at an address such as gs://"


class Decoding(NamedTuple):
    """What images are made into: their height and width, 1 channel (grey) or 3 (RGB), how; and what one may cost."""

    image_size: int
    channels: int
    resize: str = "lanczos"
    fit: str = "crop"
    max_pixels: int = 89_478_485
    max_seconds: float = 30.0
    looks: bool = False  # whether perceptual hashes are made


class IngestConfig(Section):
    """Where images come from and what they are made into."""

    source: str = Field("digits", description=f"{SOURCE_FORMS}; PLACE is {PLACES}.")
    tfds_manual_dir: str = Field("", description="Folder with the files TFDS would download; empty: TFDS downloads.")
    tfds_data_dir: str = Field("", description="Where TFDS keeps prepared datasets; empty: its own default.")
    tfds_split: str = Field("train", description="The TFDS split to read, such as train, train[:80%] or train+test.")
    tfds_eval_split: str = Field("", description="A TFDS split to hold out whole; empty: hold out by hash instead.")
    labels_from_folders: bool = Field(False, description="images: the name of an image's folder is its label.")
    max_bytes: int = Field(2**28, ge=1, lt=2**40, description="A file of more bytes goes to quarantine unread.")
    image_size: Literal[8, 16, 28, 32, 64, 128] = Field(8, description="Height and width in pixels after resizing.")
    channels: Literal[1, 3] = Field(1, description="1 grey, 3 RGB.")
    resize: Literal["lanczos", "area"] = Field("lanczos", description="How images become smaller, both antialiased.")
    fit: Literal["crop", "pad"] = Field("crop", description="Keep the centre square, or the whole image padded with black.")
    max_pixels: int = Field(89_478_485, ge=1, description="An image that says it has more is refused before it is decoded.")
    max_seconds_per_image: float = Field(30.0, gt=0.0, description="An image that takes longer to decode is refused.")
    near_duplicates: int = Field(
        -1,
        ge=-1,
        le=16,
        description="Images are duplicates if their perceptual hashes differ in at most so many of 64 bits; -1: off.",
    )
    eval_fraction: float = Field(0.2, gt=0.0, lt=1.0, description="Share of images held out, chosen by hash.")
    shards: int = Field(4, ge=1, le=10_000, description="Files per split.")
    max_quarantine_fraction: float = Field(
        0.05, ge=0.0, le=1.0, description="Above this share of unreadable images the run ends with exit code 3."
    )
    beam_options: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Options handed to Beam unchanged; none: this machine, all its cores where that pays.",
    )

    shared_folder: str = Field(
        "",
        description="Where workers on other machines leave files for one another, such as gs://BUCKET/ingest; empty: under "
        "the output's folder, which they must see.",
    )

    @field_validator("shared_folder")
    @classmethod
    def _an_address(cls, place: str) -> str:
        if place and not is_address(place):
            raise ValueError(f'"{place}" is no address such as gs://BUCKET/ingest; a folder needs no key of its own')
        return place

    @field_validator("source")
    @classmethod
    def _known_form(cls, source: str) -> str:
        kind, _, rest = source.partition(":")
        if source != "digits" and not (kind in {"tfds", "images"} and rest):
            raise ValueError(f"use {SOURCE_FORMS}")
        return source

    @model_validator(mode="after")
    def _tfds_keys_need_tfds(self) -> Self:
        if not self.source.startswith("tfds:") and (self.tfds_manual_dir or self.tfds_data_dir or self.tfds_eval_split):
            raise ValueError(f'the tfds_* keys need source = "tfds:NAME", not "{self.source}"')
        if self.labels_from_folders and not self.source.startswith("images:"):
            raise ValueError(f'labels_from_folders needs source = "images:PLACE", not "{self.source}"')
        if self.labels_from_folders and self.source.lower().endswith((".csv", ".jsonl")):
            raise ValueError(f'labels_from_folders: the labels of "{self.source}" are in its column label')
        return self
