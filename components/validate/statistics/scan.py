"""One pass over a dataset's shards: by Beam, or in this process where that is done before Beam has been imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from components.common.artifacts import Manifest
from components.dataset.records import SPLITS
from components.ingest.config import LOCAL_RUNNER
from components.validate.config import ValidateConfig
from components.validate.statistics.tally import Shard, Tally, tally_shard

SMALL_BYTES = 64_000_000  # read here in a few seconds, which is what importing and starting Beam takes


def tally_dataset(config: ValidateConfig, dataset: Path, manifest: Manifest, scratch: Path) -> dict[str, Tally]:
    """Return the tally of each split; workers leave theirs in the folder `scratch`, which they all must see.

    Raises ArtifactError for a damaged shard, ConfigError for wrong Beam options, PipelineError where the runner fails.
    """
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    shards = [
        (split, str(dataset / name), size, channels, config.blank_deviation)
        for split in SPLITS
        for name in manifest.files
        if name.startswith(f"{split}-")
    ]
    bytes_ = sum(entry.bytes for entry in manifest.files.values())
    here = not config.beam_options and bytes_ <= SMALL_BYTES
    found = _tally_here(shards) if here else _tally_with_beam(config, shards, scratch)
    return {split: found.get(split, Tally(channels)) for split in SPLITS}


def all_cores(shards: int) -> tuple[str, ...]:
    """Return Beam's options for one process a core of this machine, as far as there are shards."""
    workers = min(len(os.sched_getaffinity(0)), shards)
    several = ("--direct_running_mode=multi_processing", f"--direct_num_workers={workers}") if workers > 1 else ()
    return (LOCAL_RUNNER, *several)


def _tally_here(shards: list[Shard]) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for shard in shards:
        tally = tally_shard(shard)
        found[shard[0]] = found[shard[0]] + tally if shard[0] in found else tally
    return found


def _tally_with_beam(config: ValidateConfig, shards: list[Shard], scratch: Path) -> dict[str, Tally]:
    from components.validate.statistics.beam_scan import run_pass  # imports Beam, which takes seconds

    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tally-") as folder:
        run_pass(config.beam_options or all_cores(len(shards)), shards, Path(folder))
        return {file.stem: Tally.from_json(file.read_bytes()) for file in sorted(Path(folder).glob("*.json"))}
