"""Runs for the tests of the report: real journal entries and artifacts of real digits, written without the other steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from sklearn.datasets import load_digits

from components.common.artifacts import new_artifact as artifact
from components.common.artifacts import now, read_manifest, write_bytes, write_json, write_text
from components.common.errors import DataRejectedError
from components.common.images import grid, png_bytes, viewable_scale
from components.common.journal import STEPS, StepRecord, entry_name, recorded
from components.common.section import Summary
from components.dataset.records import Record, encode_example, shard_name, write_tfrecord
from components.evaluate.config import EvaluateConfig
from components.gate.config import GateConfig
from components.gate.judge import Judged
from components.gate.verdict import Verdict
from components.ingest.config import IngestConfig
from components.push.config import PushConfig
from components.report.description import RunDescription
from components.train.config import TrainConfig, training_key
from components.train.progress import PROGRESS, ProgressFile
from components.validate.config import ValidateConfig

HOSTILE = "<script>alert(1)</script>.png"
KEYS = {step: str(index) * 64 for index, step in enumerate(STEPS)}
ROUNDS, LOGGED = 1000, 50
CONFIGS = {
    "ingest": IngestConfig(),
    "validate": ValidateConfig(),
    "train": TrainConfig(),
    "evaluate": EvaluateConfig(),
    "gate": GateConfig(),
    "push": PushConfig(),
}
SCORES: dict[str, Any] = {
    "fid": 12.345678, "kid": 0.0123, "kid_std": 0.0011, "precision": 0.81, "recall": 0.64, "density": 1.02,
    "coverage": 0.77, "memorization": 0.012, "memorization_nearer": 0.513, "memorization_p": 0.31, "class_score": 8.71,
    "classes_covered": 10, "class_imbalance": 0.06, "sharpness_ratio": 0.94,
    "colour_distance": 0.17,
    "provenance": {
        "extractor": {"kind": "trained", "digest": "ab" * 32, "accuracy": 0.9733, "told_apart": 0.93, "features": 64},
        "resize": "none: native 8×8",
        "real": {"split": "train", "count": 1437, "held_out": 360, "dataset": "cd" * 32},
        "samples": 2000, "seed": 0, "neighbours_k": 5, "kid_subsets": 50, "kid_subset_size": 500, "weights": "ema",
        "code": "ef" * 32, "tensorflow": "2.20.0",
    },
}  # fmt: skip
MODES = {"covered": 10, "of": 10, "shares": {str(digit): 0.1 + (digit - 4.5) / 100 for digit in range(10)}}
BETWEEN: dict[str, Any] = {
    "floor": {"fid": 0.9, "kid": 0.0002, "precision": 0.95, "recall": 0.94, "density": 1.0, "coverage": 0.97},
    "ceiling": {"fid": 310.0, "kid": 1.9, "precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0},
    "intervals": {"fid": [11.6, 13.2], "kid": [0.0101, 0.0146]},
}
CHAMPION_SCORES: dict[str, Any] = {
    "fid": 19.9,
    "kid": 0.0211,
    "kid_std": 0.0014,
    "precision": 0.74,
    "recall": 0.6,
    "coverage": 0.71,
}
DECISION: dict[str, Any] = {
    "decision": "published",
    "reason": "KID 0.0123 ± 0.0011 is lower than v0002's 0.0211 ± 0.0014 by more than 0.0018.",
    "version": "v0003",
    "uri": "registry/versions/v0003",
    "champion": "v0002",
    "champion_kid": 0.0211,
}


class AnySummary(Summary):
    """A summary with any fields."""

    model_config = ConfigDict(frozen=True, extra="allow")


@cache
def digits(channels: int = 1, scale: int = 1) -> npt.NDArray[np.uint8]:
    """Return scikit-learn's 1,797 real digits as uint8 [N, 8·scale, 8·scale, channels]."""
    images = (load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
    return images.repeat(channels, axis=3).repeat(scale, axis=1).repeat(scale, axis=2)


class Run:
    """A run in the folder `root`; each method does one step, as the pipeline would."""

    def __init__(self, root: Path, images: npt.NDArray[np.uint8] | None = None) -> None:
        self.root, self.work_dir = root, root / "work"
        self.images = digits() if images is None else images
        self.started_at = now()

    @property
    def description(self) -> RunDescription:
        """The description that the report receives."""
        sections = {name: config.model_dump(mode="json") for name, config in CONFIGS.items()}
        return RunDescription(
            run_id="2026-01-31-101112-quickstart",
            started_at=self.started_at,
            config={"run": {"dir": "runs", "work_dir": str(self.work_dir)}, **sections},
            command="wgan-pipeline run configs/quickstart.toml --set train.rounds=1000",
            work_dir=str(self.work_dir),
            keys=KEYS,
            versions={"python": "3.11.7", "tensorflow": "2.20.0", "kfp": "2.17.0", "apache-beam": "2.77.0"},
        )

    def out(self, step: str) -> Path:
        """Return the folder of a step's artifact."""
        return self.root / "steps" / step

    def record(self, step: str, body: Callable[[], Summary], *inputs: str) -> None:
        """Do a step and write its journal entry."""
        recorded(step, KEYS[step], self.work_dir, self.out(step), body, **{name: self.out(name) for name in inputs})

    def write_entry(self, step: str, state: str, started_at: str, **fields: Any) -> None:
        """Write a journal entry directly, as for a process that was killed."""
        record = StepRecord(step=step, key=KEYS[step], state=state, pid=4_194_305, started_at=started_at, **fields)
        write_text(self.work_dir / entry_name(step, KEYS[step]), record.model_dump_json())

    def ingest(self, quarantined: Sequence[tuple[str, str]] = ((HOSTILE, "not an image"),)) -> None:
        """Write the dataset."""
        labels = load_digits().target
        cut = len(self.images) * 4 // 5
        counts = {"read": len(self.images) + len(quarantined) + 2, "kept": len(self.images), "duplicate": 2}
        counts |= {"quarantined": len(quarantined), "train": cut, "eval": len(self.images) - cut}

        def body() -> Summary:
            with artifact(self.out("ingest"), "dataset", config=CONFIGS["ingest"]) as writer:
                for split, indices in (("train", range(cut)), ("eval", range(cut, len(self.images)))):
                    records = (Record(self.images[at], int(labels[at]), f"digit-{at}") for at in indices)
                    write_tfrecord(writer.path / shard_name(split, 0, 1), map(encode_example, records))
                lines = [
                    json.dumps({"id": name, "reason": reason, "detail": "starts with 3c736372"}) + "\n"
                    for name, reason in quarantined
                ]
                write_text(writer.path / "quarantine.jsonl", "".join(lines))
                writer.counts = counts
                writer.details = {
                    "image_size": self.images.shape[1], "channels": self.images.shape[3], "source": "digits",
                    "resize": "centre square, then Pillow LANCZOS (antialiased)",
                    "label_names": [str(digit) for digit in range(10)],
                    "label_histogram": {
                        split: {str(digit): int((part == digit).sum()) for digit in range(10)}
                        for split, part in (("train", labels[:cut]), ("eval", labels[cut : len(self.images)]))
                    },
                }  # fmt: skip
            return AnySummary(**counts)

        self.record("ingest", body)

    def reject(self) -> None:
        """Fail in ingest because of too many unreadable images."""

        def body() -> Summary:
            raise DataRejectedError(
                f"9 of 100 images cannot be read (9.0 %, allowed are 5.0 %), for instance {HOSTILE}: not an image.",
                "Repair or remove them, or raise ingest.max_quarantine_fraction.",
            )

        try:
            self.record("ingest", body)
        except DataRejectedError:
            return

    def validate(self) -> None:
        """Write the validation."""

        def body() -> Summary:
            with artifact(
                self.out("validate"), "validation", config=CONFIGS["validate"], inputs={"dataset": self.out("ingest")}
            ) as writer:
                axes = (0, 1, 2)
                split = {
                    "count": len(self.images), "shape": list(self.images.shape[1:]), "minimum": 0, "maximum": 255,
                    "mean": self.images.mean(axis=axes).tolist(), "deviation": self.images.std(axis=axes).tolist(),
                    "label_histogram": {},
                }  # fmt: skip
                write_json(writer.path / "statistics.json", {"train": split, "eval": split})
            return AnySummary(train_images=1437, eval_images=360)

        self.record("validate", body, "ingest")

    def train(self, resumed_from_round: int | None = None, **started: str) -> None:
        """Write the model, with metrics and sample grids like those of a training."""

        def body() -> Summary:
            inputs = {"dataset": self.out("ingest"), "validation": self.out("validate")}
            with artifact(self.out("train"), "model", config=CONFIGS["train"], inputs=inputs) as writer:
                write_training(writer.path, writer.path / "samples", self.images)
                writer.counts = {"rounds": ROUNDS, "images_seen": 192_000}
            return AnySummary(
                rounds=ROUNDS, images_seen=192_000, critic_images_per_second=8123.4, replicas=1,
                resumed_from_round=resumed_from_round, wasserstein_gap=0.41, penalty=0.013,
                **started,
            )  # fmt: skip

        self.record("train", body, "ingest", "validate")

    def progress(self, rounds_done: int = 500) -> Path:
        """Write what a training has written after these rounds of 1,000; return its folder."""
        digest = read_manifest(self.out("ingest")).digest
        folder = self.work_dir / "checkpoints" / training_key(TrainConfig(), digest)
        write_training(folder, folder / "samples", self.images, rounds_done)
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        scores = [{"round": at, "images_seen": at * 192, "kid": kid, "kid_std": 0.01} for at, kid in ((250, 0.3), (500, 0.2))]
        content = {"written_at": now(), "round": rounds_done, "rounds": ROUNDS, "rounds_per_second": 4.0}
        file = ProgressFile.model_validate(content | {"metrics": metrics, "scores": scores})
        write_text(folder / PROGRESS, file.model_dump_json())
        return folder

    def break_training(self, error: BaseException) -> None:
        """Write a checkpoint with curves and samples, then fail with `error`."""
        folder = self.work_dir / "checkpoints" / "abc"

        def body() -> Summary:
            with artifact(folder / "round-00000500", "checkpoint", config=CONFIGS["train"]) as writer:
                write_training(writer.path, folder / "samples", self.images, rounds=500)
                scores = [{"round": at, "kid": kid, "kid_std": 0.01} for at, kid in ((250, 0.3), (500, 0.2))]
                write_text(writer.path / "scores.jsonl", "".join(json.dumps(score) + "\n" for score in scores))
                writer.counts["round"] = 500
            raise error

        try:
            self.record("train", body, "ingest", "validate")
        except type(error):
            return

    def evaluate(self) -> None:
        """Write the evaluation."""

        def body() -> Summary:
            inputs = {"dataset": self.out("ingest"), "model": self.out("train")}
            with artifact(self.out("evaluate"), "evaluation", config=CONFIGS["evaluate"], inputs=inputs) as writer:
                write_json(writer.path / "scores.json", SCORES | BETWEEN | {"modes": MODES})
                scale = viewable_scale(self.images.shape[1])
                write_bytes(writer.path / "samples.png", png_bytes(grid(noisy(self.images[64:128], 0.06), 8, scale)))
                rows = self.images[:48].copy()
                rows[::6] = noisy(rows[::6], 0.1)
                write_bytes(writer.path / "neighbours.png", png_bytes(grid(rows, 6, scale)))
                for name in ("worst_pairs.png", "farthest_pairs.png"):
                    write_bytes(writer.path / name, png_bytes(grid(self.images[:32].repeat(2, axis=0)[:32], 8, scale)))
            return AnySummary(**SCORES)

        self.record("evaluate", body, "ingest", "train")

    def gate(self, decision: str = "blessed", champion: str = DECISION["champion"]) -> None:
        """Write the verdict."""
        kid = CHAMPION_SCORES["kid"] if champion else None
        verdict = Verdict(
            blessed=decision != "not blessed", unchanged=decision == "unchanged", reason=DECISION["reason"],
            champion=champion, champion_digest="ef" * 32 if champion else "", champion_kid=kid,
            champion_scores=CHAMPION_SCORES if champion else None, checks=(), digests={}, rule=GateConfig(),
        )  # fmt: skip

        def body() -> Summary:
            inputs = {"model": self.out("train"), "evaluation": self.out("evaluate")}
            with artifact(self.out("gate"), "verdict", config=CONFIGS["gate"], inputs=inputs) as writer:
                Judged(verdict, b"").write(writer)
            return AnySummary(decision=decision, reason=DECISION["reason"], champion=champion, champion_kid=kid)

        self.record("gate", body, "train", "evaluate")

    def push(self, **changes: Any) -> None:
        """Write the decision."""
        decision = DECISION | changes

        def body() -> Summary:
            inputs = {"model": self.out("train"), "evaluation": self.out("evaluate"), "verdict": self.out("gate")}
            with artifact(self.out("push"), "push", config=CONFIGS["push"], inputs=inputs) as writer:
                write_json(writer.path / "decision.json", decision)
            return AnySummary(**decision)

        self.record("push", body, "train", "evaluate", "gate")

    def all(self, **decision: Any) -> Run:
        """Run every step."""
        self.ingest()
        self.validate()
        self.train()
        self.evaluate()
        self.gate(**{name: decision[name] for name in ("champion",) if name in decision})
        self.push(**decision)
        return self


def again(run: Run) -> Run:
    """Return a later run with the same configuration, whose steps come from the cache."""
    return Run(run.root, run.images)


def noisy(images: npt.NDArray[np.uint8], share: float) -> npt.NDArray[np.uint8]:
    """Return images mixed with noise, like those of a generator early in training."""
    noise = np.random.default_rng(0).integers(0, 256, images.shape)
    return (images * (1 - share) + noise * share).astype(np.uint8)


def write_training(folder: Path, samples: Path, images: npt.NDArray[np.uint8], rounds: int = ROUNDS) -> None:
    """Write metrics.jsonl and the sample grids of a training."""
    rng = np.random.default_rng(0)
    lines = []
    for at in range(LOGGED, rounds + 1, LOGGED):
        gap = 3.2 * math.exp(-at / 180) + 0.35 + rng.normal(0, 0.03)
        penalty = 0.9 * math.exp(-at / 60) + 0.012 + abs(rng.normal(0, 0.004))
        line = {
            "round": at, "images_seen": at * 192, "critic_loss": 10 * penalty - gap, "wasserstein_gap": gap,
            "penalty": penalty, "critic_grad_norm": 1.1 + rng.normal(0, 0.1), "generator_loss": rng.normal(-0.2, 0.15),
            "generator_grad_norm": 0.4 + rng.normal(0, 0.05), "seconds": 1.2,
        }  # fmt: skip
        lines.append(json.dumps(line) + "\n")
    write_text(folder / "metrics.jsonl", "".join(lines))
    write_bytes(samples / "real.png", png_bytes(grid(images[:64], 8)))
    for at in range(0, rounds + 1, 100):
        picture = png_bytes(grid(noisy(images[128:192], math.exp(-at / 300)), 8))
        write_bytes(samples / f"round-{at:08d}.png", picture)


class Parsed(HTMLParser):
    """The elements of a page as (tag, attributes), its text, and the tags that are not balanced."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.unbalanced: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.unbalanced += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def urls(self) -> list[str]:
        """The URLs of all attributes that load something, such as src and href."""
        names = ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "background")
        return [value or "" for _, attributes in self.elements for name, value in attributes.items() if name in names]


def parsed(html: str) -> tuple[Parsed, list[str]]:
    """Return a page and the ids of its sections, after checking that it loads nothing."""
    page = Parsed(html)
    assert html.startswith("<!doctype html>")
    assert page.unbalanced == []
    assert all(url.startswith("data:") for url in page.urls)
    assert "script" not in {tag for tag, _ in page.elements}
    return page, [str(attributes["id"]) for tag, attributes in page.elements if tag == "section"]
