"""The provenance of scores: scores of different provenance are never compared."""

from __future__ import annotations

from typing import Any

from components.common.artifacts import code_digest
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor import AnyExtractor

NOT_COMPARED = ("extractor.accuracy",)  # determined by the digest of the weights


def provenance(
    config: EvaluateConfig,
    extractor: AnyExtractor,
    dataset_digest: str,
    real_count: int,
    held_out_count: int,
    weights: str = "ema",
) -> dict[str, Any]:
    """Return what the scores of a model depend on besides the model, as plain JSON; `weights` says what drew the samples."""
    settings = extractor.settings
    return {
        "extractor": {
            "kind": settings.kind,
            "digest": extractor.digest,
            "accuracy": settings.held_out_accuracy,
            "told_apart": settings.told_apart,
            "features": extractor.width,
        },
        "resize": extractor.resize,
        "real": {"split": "train", "count": real_count, "held_out": held_out_count, "dataset": dataset_digest},
        "samples": config.samples,
        "seed": config.seed,
        "neighbours_k": config.neighbours_k,
        "kid_subsets": config.kid_subsets,
        "kid_subset_size": config.kid_subset_size,
        "weights": weights,
        **program(),
    }


def program() -> dict[str, str]:
    """Return the part of the provenance about the program that computed the scores."""
    import tensorflow as tf

    return {"code": code_digest("evaluate"), "tensorflow": str(tf.__version__)}


def comparable(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the dotted keys in which two provenances differ, sorted; scores are comparable if there are none."""
    flat_ours, flat_theirs = _flatten(ours), _flatten(theirs)
    names = sorted(flat_ours.keys() | flat_theirs.keys())
    missing = object()
    return [
        name for name in names if name not in NOT_COMPARED and flat_ours.get(name, missing) != flat_theirs.get(name, missing)
    ]


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat
