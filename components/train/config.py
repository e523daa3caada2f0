"""The [train] section."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from components.common.section import Section

DEVICE_FORMS = '"cpu:N" (N virtual devices), "gpu", "tpu" or "tpu:NAME"'


class TrainConfig(Section):
    """How the WGAN-GP trains. A round is n_critic critic steps, each on a fresh batch, and one generator step."""

    devices: str = Field("cpu:1", description=f"{DEVICE_FORMS}.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the layers; losses, slopes and updates are float32. auto: bfloat16 where it is faster."
    )
    data: Literal["auto", "resident", "stream"] = Field(
        "auto", description="Images in memory, or read from the TFRecords as needed; the order is the same. auto: by size."
    )
    start_from: str = Field(
        "",
        description="Registry whose champion training starts from, where networks and updates are the same; "
        "champion: this pipeline's own registry; empty: from scratch.",
    )
    rounds: int = Field(1000, ge=1, description="Rounds to train, those of an earlier, interrupted try included.")
    rounds_per_call: int = Field(0, ge=0, description="Rounds the devices do per host call; 0: log_every_rounds.")
    log_every_rounds: int = Field(50, ge=1, description="A line in metrics.jsonl every so many rounds.")
    checkpoint_every_rounds: int = Field(250, ge=1, description="A checkpoint every so many rounds.")
    keep_checkpoints: int = Field(2, ge=1, description="How many checkpoints are kept.")
    sample_every_rounds: int = Field(250, ge=1, description="A grid of the fixed latents every so many rounds.")
    global_batch_size: int = Field(64, ge=1, description="Images a critic step sees, over all replicas.")
    n_critic: int = Field(3, ge=1, description="Critic steps a round.")
    networks: Literal["plain", "residual"] = Field("plain", description="Convolutions one after another, or residual blocks.")
    conditional: bool = Field(False, description="Generator and critic see the label; the dataset must have labels.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of initial weights, noise and data order.")
    latents: int = Field(64, ge=1, description="Dimensions of the latent space.")
    generator_channels: int = Field(32, ge=1, description="Channels of the generator's last hidden layer.")
    critic_channels: int = Field(32, ge=1, description="Channels of the critic's first layer.")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Of both networks.")
    critic_learning_rate: float = Field(5e-4, gt=0.0, description="Learning rate of the critic.")
    generator_learning_rate: float = Field(5e-4, gt=0.0, description="Learning rate of the generator.")
    beta_1: float = Field(0.0, ge=0.0, lt=1.0, description="Adam; WGAN-GP wants it small.")
    beta_2: float = Field(0.9, ge=0.0, lt=1.0, description="Adam.")
    lipschitz: Literal["penalty", "clip"] = Field(
        "penalty", description="What bounds the critic: gradient penalty or clipping."
    )
    penalty_weight: float = Field(10.0, ge=0.0, description="λ of Gulrajani et al. 2017, equation 3.")
    penalty_every_rounds: int = Field(1, ge=1, description="Penalty in every so many rounds only, and then as many times λ.")
    clip_value: float = Field(0.01, gt=0.0, description="With lipschitz = clip: the critic's weights are kept within ±c.")
    score_every_images: int = Field(200_000, ge=0, description="KID on held-out images every so many images seen; 0: never.")
    patience: int = Field(0, ge=0, description="Stop after so many scores without a new best; 0: never.")
    ema_halflife_rounds: float = Field(350.0, gt=0.0, description="Of the moving average that becomes the model.")

    @field_validator("devices")
    @classmethod
    def _known_form(cls, devices: str) -> str:
        if not re.fullmatch(r"cpu:[1-9]\d*|gpu|tpu|tpu:\S+", devices):
            raise ValueError(f"use {DEVICE_FORMS}")
        return devices

    @model_validator(mode="after")
    def _whole_numbers_fit(self) -> Self:
        if self.devices.startswith("cpu:"):
            check_batch_divides(self.global_batch_size, int(self.devices.removeprefix("cpu:")))
        for name in ("log_every_rounds", "checkpoint_every_rounds", "sample_every_rounds"):
            if getattr(self, name) % self.rounds_a_call:
                raise ValueError(f"{name} = {getattr(self, name)} is no multiple of rounds_per_call = {self.rounds_a_call}")
        if self.rounds_a_call % self.penalty_every_rounds:
            raise ValueError(
                f"rounds_per_call = {self.rounds_a_call} is no multiple of penalty_every_rounds = {self.penalty_every_rounds}"
            )
        return self

    @property
    def rounds_a_call(self) -> int:
        """Rounds per host call, with the default resolved."""
        return self.rounds_per_call or self.log_every_rounds


def check_batch_divides(global_batch_size: int, replicas: int) -> None:
    """Refuse a global batch that does not divide by the replicas, naming the nearest ones that do. Raises ValueError."""
    if global_batch_size % replicas:
        below = global_batch_size // replicas * replicas
        nearest = f"{below} or {below + replicas}" if below else str(replicas)
        raise ValueError(f"global_batch_size = {global_batch_size} does not divide by {replicas} replicas; use {nearest}")
