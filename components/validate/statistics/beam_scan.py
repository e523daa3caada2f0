"""The pass as a Beam pipeline: each worker tallies whole shards, and tallies are merged in whatever order they come."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.common.artifacts import write_text
from components.ingest.beam.quiet_beam import beam
from components.ingest.beam.runner import run_pipeline
from components.validate.statistics.tally import Shard, Tally, tally_shard


class MergeTallies(beam.CombineFn):  # type: ignore[misc]  # Beam ships no types
    """Merges tallies as JSON: text needs no pickle on its way, and there is one a shard, not one an image."""

    def create_accumulator(self) -> str:
        """Return what nothing adds up to."""
        return ""

    def add_input(self, accumulator: str, element: str) -> str:
        """Return the tally of both."""
        return self.merge_accumulators([accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[str]) -> str:
        """Return the tally of all."""
        tallies = [Tally.from_json(text) for text in accumulators if text]
        return sum(tallies[1:], tallies[0]).to_json() if tallies else ""

    def extract_output(self, accumulator: str) -> str:
        """Return the tally."""
        return accumulator


def run_pass(options: tuple[str, ...], shards: list[Shard], folder: Path) -> None:
    """Write the tally of each split as folder/SPLIT.json. Raises ConfigError for wrong options, else what a worker raised."""

    def build(pipeline: Any) -> None:
        tallies = (
            pipeline
            | "List shards" >> beam.Create(shards)
            | "Spread shards" >> beam.Reshuffle()
            | "Tally" >> beam.Map(_tallied).with_output_types(tuple[str, str])
            | "Merge" >> beam.CombinePerKey(MergeTallies()).with_output_types(tuple[str, str])
        )
        _ = tallies | "Write" >> beam.Map(_written, str(folder))

    run_pipeline(options, build, "validate.beam_options")


def _tallied(shard: Shard) -> tuple[str, str]:
    return shard[0], tally_shard(shard).to_json()


def _written(tallied: tuple[str, str], folder: str) -> None:
    split, text = tallied
    write_text(Path(folder) / f"{split}.json", text)
