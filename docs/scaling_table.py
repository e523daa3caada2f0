"""Print the tables of docs/scaling.md: parameters, bytes all-reduced a round, and bytes that each replica sends.

python docs/scaling_table.py
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from components.train.config import TrainConfig
from components.train.networks import ImageShape, make_critic, make_generator

REPLICAS = (8, 16, 32, 64, 128, 256)
NETWORKS = {
    "plain, 28×28 grey": (ImageShape(28, 1), {}),
    "plain, 64×64 RGB": (ImageShape(64, 3), {}),
    "residual, 64×64 RGB": (ImageShape(64, 3), {"networks": "residual"}),
    "plain, 128×128 RGB": (ImageShape(128, 3), {}),
}
BYTES = 4  # of a float32; gradients are float32 even with bfloat16 layers


def reduced_a_round(critic: int, generator: int, n_critic: int) -> int:
    """Return the bytes of gradients that a round sums over the replicas."""
    return BYTES * (n_critic * critic + generator)


def sent(reduced: int, replicas: int) -> float:
    """Return the bytes that each of N replicas sends in a ring all-reduce: 2 (N - 1) / N times the size of the sum."""
    return reduced * 2 * (replicas - 1) / replicas


def main() -> None:
    """Print the tables."""
    n_critic = 3
    print("| networks | critic | generator | reduced a round |", "|---|---|---|---|", sep="\n")
    rows = []
    for name, (shape, changes) in NETWORKS.items():
        config = TrainConfig(n_critic=n_critic, **changes)
        critic = make_critic(shape, config).count_params()
        generator = make_generator(shape, config).count_params()
        reduced = reduced_a_round(critic, generator, n_critic)
        rows.append((name, reduced))
        print(f"| {name} | {critic:,} | {generator:,} | {reduced / 1e6:.1f} MB |")
    print()
    print("| networks |", " | ".join(f"{count} replicas" for count in REPLICAS), "|")
    print("|---" * (len(REPLICAS) + 1) + "|")
    for name, reduced in rows:
        print(f"| {name} |", " | ".join(f"{sent(reduced, count) / 1e6:.1f} MB" for count in REPLICAS), "|")


if __name__ == "__main__":
    main()
