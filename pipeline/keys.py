"""The key of each step: a digest of its config, its code and the keys before it.

The key is an argument of the step, so it is part of KFP's cache key, which covers neither imported code nor the content of a
source. It also names the step's entry in the journal.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.common.artifacts import code_digest, digest_of
from pipeline.config import RunConfig

UPSTREAM = {
    "ingest": (),
    "validate": ("ingest",),
    "tpu_check": ("ingest",),
    "train": ("ingest", "validate"),
    "evaluate": ("ingest", "train"),
    "gate": ("validate", "train", "evaluate"),
    "push": ("validate", "train", "evaluate", "gate"),
}

# They decide whether a dataset is accepted, and change nothing of what is made from an accepted one.
HISTORY_FIELDS = {"history", "accept"}


def step_keys(config: RunConfig, source_fingerprint: str, history_state: Sequence[str] = ()) -> dict[str, str]:
    """Return the key of every step of this config; `source_fingerprint` changes when the content of the source does.

    `history_state` is what else the outcome of validate depends on (History.state).
    """
    keys: dict[str, str] = {}
    for step, section in config.sections().items():
        upstream = [keys[name] for name in UPSTREAM[step]]
        values = section.model_dump(mode="json", exclude=HISTORY_FIELDS if step == "validate" else None)
        if "start_from" in values:  # not which champion: publishing one must not train on the same data again
            values["start_from"] = bool(values["start_from"])
        keys[step] = digest_of([step, values, code_digest(step), upstream or source_fingerprint])
    judged = [config.validation.history, config.validation.accept, *history_state]
    return keys | {"validate": digest_of([keys["validate"], judged])}
