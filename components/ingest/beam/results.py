"""What the main process collects when the Beam pipeline is done: the counts, and the lists of omitted images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from components.common.artifacts import ArtifactWriter
from components.common.errors import PipelineError
from components.common.store import Store, writing
from components.dataset.records import SPLITS
from components.ingest.beam.sorted_rows import read_rows

QUARANTINE_FILE = "quarantine.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"

Counts = dict[str, int]
OUTCOMES = ("kept", "duplicate", "quarantined")
LISTS = {
    "quarantined": (QUARANTINE_FILE, ("id", "reason", "detail", "head")),
    "duplicate": (DUPLICATES_FILE, ("id", "of", "kind")),
}


def note_name(number: int) -> str:
    """Return the name of the note of a shard, which contains its counts and is written after its other files."""
    return f"shard-{number:05d}.json"


def part_name(outcome: str, number: int) -> str:
    """Return the name of a shard's part of the list of an outcome."""
    return f"{outcome}-{number:05d}.jsonl"


def read_counts(store: Store, shards: int, total: int) -> Counts:
    """Return the sums of the counts of all shards: by outcome, by split, and by split and label.

    Raises PipelineError if an image was lost or counted twice, and ArtifactError.
    """
    sums: Counter[str] = Counter()
    for number in range(shards):
        sums.update(json.loads(store.read(note_name(number)))["counts"])
    return {**sums, **balanced(sums, total)}


def balanced(sums: Counts, total: int) -> Counts:
    """Return read, kept, duplicate, quarantined, train and eval.

    Raises PipelineError unless read equals the `total` of the source and the sum of kept, duplicate and quarantined; each
    is counted where it happens.
    """
    counts = {name: sums.get(name, 0) for name in ("read", "duplicate", "quarantined", *SPLITS)}
    counts["kept"] = sum(counts[split] for split in SPLITS)
    if not total == counts["read"] == sum(counts[name] for name in OUTCOMES):
        parts = " + ".join(f"{counts[name]} {name}" for name in OUTCOMES)
        raise PipelineError(
            f"Images were lost or counted twice: {total} in the source, {counts['read']} read, but {parts}.",
            "Run again; if it happens again, report it with your ingest.beam_options.",
        )
    return counts


def write_lists(store: Store, shards: int, artifact: ArtifactWriter) -> None:
    """Write quarantine.jsonl and duplicates.jsonl, sorted by id, from the parts of all shards. Raises ArtifactError."""
    for outcome, (name, _) in LISTS.items():
        with writing(name), artifact.open(name) as stream:
            stream.writelines(_lines(store, shards, outcome))


def _lines(store: Store, shards: int, outcome: str) -> Iterator[bytes]:
    _, keys = LISTS[outcome]
    for row in read_rows(store, [part_name(outcome, number) for number in range(shards)]):
        line = json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False)
        yield f"{line}\n".encode()
