"""The key of each step: a digest of its config, its code and the keys before it.

It is an argument of the step, so it is part of KFP's cache key, which sees neither imported code nor what lies behind a
source's name; and it names the step's entry in the journal.
"""

from __future__ import annotations

from components.artifacts import code_digest, digest_of
from pipeline.config import RunConfig

UPSTREAM = {
    "ingest": (),
    "validate": ("ingest",),
    "tpu_check": ("ingest",),
    "train": ("ingest", "validate"),
    "evaluate": ("ingest", "train"),
    "push": ("validate", "train", "evaluate"),
}


def step_keys(config: RunConfig, source_fingerprint: str) -> dict[str, str]:
    """Return the key of every step of this config; `source_fingerprint` changes when the content of the source does."""
    keys: dict[str, str] = {}
    for step, section in config.sections().items():
        upstream = [keys[name] for name in UPSTREAM[step]]
        values = section.model_dump(mode="json")
        keys[step] = digest_of([step, values, code_digest(step), upstream or source_fingerprint])
    return keys
