"""One pass over the shards of a dataset, in this process or as a Beam pipeline whose workers tally whole shards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.common.artifacts import Manifest, write_text
from components.dataset.records import SPLITS, shard_files
from components.ingest.beam.options import local_options
from components.ingest.beam.worker_processes import worker_processes
from components.validate.config import ValidateConfig
from components.validate.statistics.tally import ShardTask, Tally, tally_shard

SMALL_BYTES = 64_000_000  # takes a few seconds in this process, about as long as importing and starting Beam


def tally_dataset(config: ValidateConfig, dataset: Path, manifest: Manifest, scratch: Path) -> dict[str, Tally]:
    """Return the tally of each split; Beam workers write theirs into the folder `scratch`, which all of them must see.

    Raises ArtifactError for a damaged shard, ConfigError for wrong Beam options, PipelineError when the runner fails.
    """
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    tasks: list[ShardTask] = []
    for split in SPLITS:
        for file in shard_files(dataset, manifest, split):
            entry = manifest.files[file.name]
            tasks.append((split, str(file), entry.bytes, entry.sha256, size, channels, config.blank_deviation))
    tallies = {split: Tally(channels) for split in SPLITS}
    if config.beam_options or sum(entry.bytes for entry in manifest.files.values()) > SMALL_BYTES:
        return tallies | _tally_with_beam(config.beam_options or local_options(len(tasks)), tasks, scratch)
    for task in tasks:
        tallies[task[0]] += tally_shard(task)
    return tallies


def _tally_with_beam(options: tuple[str, ...], tasks: list[ShardTask], scratch: Path) -> dict[str, Tally]:
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tally-") as folder, worker_processes(options) as processes:
        from components.ingest.beam.quiet_beam import beam  # importing Beam takes half a second, like starting the processes
        from components.ingest.beam.runner import run_pipeline

        def build(pipeline: Any) -> None:
            tallies = (
                pipeline
                | "List shards" >> beam.Create(tasks)
                | "Spread shards" >> beam.Reshuffle()
                | "Tally" >> beam.Map(_tally_task).with_output_types(tuple[str, str])
                | "Merge" >> beam.CombinePerKey(_merge).with_output_types(tuple[str, str])
            )
            _ = tallies | "Write" >> beam.Map(_write, folder)

        run_pipeline(options, build, processes, key="validate.beam_options")
        return {file.stem: Tally.from_json(file.read_bytes()) for file in Path(folder).glob("*.json")}


def _tally_task(task: ShardTask) -> tuple[str, str]:
    return task[0], tally_shard(task).to_json()  # JSON, because Beam would pickle a Tally


def _merge(texts: Iterable[str]) -> str:
    first, *rest = map(Tally.from_json, texts)
    return sum(rest, first).to_json()


def _write(tally: tuple[str, str], folder: str) -> None:
    split, text = tally
    write_text(Path(folder) / f"{split}.json", text)
