"""The [train] section."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from components.common.artifacts import digest_of
from components.common.section import Section

DEVICE_FORMS = '"cpu:N" (N virtual devices), "gpu", "tpu" or "tpu:NAME"'
# These may differ between two attempts of the same training, because they do not affect the result.
NOT_IN_KEY = {"devices", "keep_checkpoints", "checkpoint_every_rounds", "checkpoint_every_seconds"}


class TrainConfig(Section):
    """How the WGAN-GP trains. A round is n_critic critic steps, each on a fresh batch, and one generator step."""

    devices: str = Field("cpu:1", description=f"Devices to train on: {DEVICE_FORMS}.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the layers; losses, slopes and updates are always float32. auto: bfloat16 if it is faster.",
    )
    data: Literal["auto", "resident", "stream"] = Field(
        "auto",
        description="resident: load all images into memory. stream: read them from the TFRecords during training. The order is "
        "the same. auto: resident up to 1 GiB of pixels.",
    )
    start_from: str = Field(
        "",
        description="Registry whose champion training starts from, if its networks and updates are the same. "
        "champion: this pipeline's own registry. Empty: start from scratch.",
    )
    rounds: int = Field(1000, ge=1, description="Rounds to train, including those of an earlier, interrupted attempt.")
    rounds_per_call: int = Field(0, ge=0, description="Rounds that the devices run in one host call; 0: log_every_rounds.")
    log_every_rounds: int = Field(50, ge=1, description="Rounds between two lines of metrics.jsonl.")
    checkpoint_every_rounds: int = Field(250, ge=1, description="Rounds between two checkpoints.")
    checkpoint_every_seconds: float = Field(
        60.0,
        ge=0.0,
        description="Save also after this time, for machines that end without notice; less often where that would take more "
        "than 1 % of the time. 0: never.",
    )
    keep_checkpoints: int = Field(2, ge=1, description="Number of checkpoints to keep; older ones are deleted.")
    sample_every_rounds: int = Field(250, ge=1, description="Rounds between two sample grids (always of the same latents).")
    global_batch_size: int = Field(64, ge=1, description="Real images in a critic step, over all replicas.")
    n_critic: int = Field(3, ge=1, description="Critic steps in a round.")
    networks: Literal["plain", "residual"] = Field(
        "plain", description="plain: one convolution per resolution. residual: blocks."
    )
    conditional: bool = Field(False, description="Generator and critic see the label; the dataset must have labels.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the initial weights, the noise and the data order.")
    latents: int = Field(64, ge=1, description="Number of dimensions of the latent space.")
    generator_channels: int = Field(32, ge=1, description="Channels of the generator's last hidden layer.")
    critic_channels: int = Field(32, ge=1, description="Channels of the critic's first layer.")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Optimizer of both networks.")
    critic_learning_rate: float = Field(5e-4, gt=0.0, description="Learning rate of the critic's optimizer.")
    generator_learning_rate: float = Field(5e-4, gt=0.0, description="Learning rate of the generator's optimizer.")
    decay_share: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of the rounds, at the end, in which both learning rates fall linearly to 0."
    )
    beta_1: float = Field(0.0, ge=0.0, lt=1.0, description="Adam's beta 1; WGAN-GP needs a small one.")
    beta_2: float = Field(0.9, ge=0.0, lt=1.0, description="Adam's beta 2.")
    lipschitz: Literal["penalty", "clip"] = Field(
        "penalty", description="What bounds the critic's slope: the gradient penalty, or clipping of its weights."
    )
    penalty_weight: float = Field(10.0, ge=0.0, description="Weight of the penalty: λ of Gulrajani et al. 2017, equation 3.")
    penalty_every_rounds: int = Field(
        1, ge=1, description="k: compute the penalty every k rounds only, with k times its weight."
    )
    clip_value: float = Field(0.01, gt=0.0, description="lipschitz = clip: the critic's weights are clipped to ±clip_value.")
    score_every_images: int = Field(
        200_000, ge=0, description="Real images seen between two scores (KID on held-out images) during training; 0: no scores."
    )
    patience: int = Field(0, ge=0, description="Stop after this number of scores without a new best one; 0: never.")
    ema_halflife_rounds: float = Field(
        350.0, gt=0.0, description="Half-life of the moving average of the generator's weights, which is exported as the model."
    )

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, devices: str) -> str:
        if not re.fullmatch(r"cpu:[1-9]\d*|gpu|tpu|tpu:\S+", devices):
            raise ValueError(f"use {DEVICE_FORMS}")
        return devices

    @model_validator(mode="after")
    def _check_multiples(self) -> Self:
        if self.devices.startswith("cpu:"):
            check_batch_divides(self.global_batch_size, int(self.devices.removeprefix("cpu:")))
        for name in ("log_every_rounds", "checkpoint_every_rounds", "sample_every_rounds"):
            if getattr(self, name) % self.rounds_a_call:
                raise ValueError(f"{name} = {getattr(self, name)} is not a multiple of rounds_per_call = {self.rounds_a_call}")
        if self.rounds_a_call % self.penalty_every_rounds:
            raise ValueError(
                f"rounds_per_call = {self.rounds_a_call} is not a multiple of penalty_every_rounds = "
                f"{self.penalty_every_rounds}"
            )
        return self

    @property
    def rounds_a_call(self) -> int:
        """Rounds per host call, with the default resolved."""
        return self.rounds_per_call or self.log_every_rounds


def check_batch_divides(global_batch_size: int, replicas: int) -> None:
    """Raise ValueError if the global batch does not divide by the replicas; the message names the nearest sizes that do."""
    if global_batch_size % replicas:
        below = global_batch_size // replicas * replicas
        nearest = f"{below} or {below + replicas}" if below else str(replicas)
        raise ValueError(f"global_batch_size = {global_batch_size} does not divide by {replicas} replicas; use {nearest}")


def training_key(config: TrainConfig, dataset_digest: str) -> str:
    """Return the folder name of a training: the same for the same data and config, on any devices."""
    return digest_of([in_key(config.model_dump(mode="json")), dataset_digest])[:24]


def in_key(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training that determine its result."""
    kept = {name: value for name, value in config.items() if name not in NOT_IN_KEY}
    return kept | {"start_from": bool(config.get("start_from"))}  # the registry may move
