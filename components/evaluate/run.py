"""The evaluate step: score a generator against real images, and score another model in exactly the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import Manifest, new_artifact, read_manifest, write_json
from components.common.errors import ArtifactError
from components.common.progress import say
from components.common.store import Location
from components.dataset.stored_images import open_split
from components.evaluate.config import EvaluateConfig
from components.evaluate.features import extractor as extractors
from components.evaluate.features.extractor import Floats32
from components.evaluate.metrics import table
from components.evaluate.provenance import program
from components.evaluate.real_statistics import load_real_statistics
from components.evaluate.scored import RealImages, features_of, score_images
from components.evaluate.scores import (
    SAMPLE_FEATURES_FILE,
    EvaluateSummary,
    check_counts,
    load_reference,
    measure,
    save_array,
)
from components.evaluate.useless import trust_sentence
from components.generator.generator import sample_in_fresh_process

SCORES_FILE = "scores.json"
EXTRACTOR_FOLDER = "extractor"

Images = npt.NDArray[np.uint8]


def run(config: EvaluateConfig, *, dataset: Path, model: Path, work_dir: Location, out: Path) -> EvaluateSummary:
    """Score `model` against `dataset` and write the evaluation artifact `out`; extractors are cached in `work_dir`.

    Samples are drawn from the SavedModel in a fresh process, as a user would do. Raises ArtifactError if the image sizes of
    model and dataset differ, DataRejectedError or ConfigError if there are too few images.
    """
    data = read_manifest(dataset, "dataset", verify=False)  # its shards are checked while they are read
    _check_shape("The model", _shape(read_manifest(model, "model")), _shape(data))
    check_counts(config, data.counts["train"], data.counts["eval"])
    names = [str(name) for name in data.details.get("label_names", [])]
    real = RealImages(open_split(dataset, "train"), open_split(dataset, "eval"), data.digest, names)
    say(f"drawing {config.samples:,} samples in a fresh process")
    scored = score_images(config, real, lambda: _draw(model, config, _shape(data)), work_dir, dataset=dataset)
    summary = scored.measurement.summary
    say(", ".join(f"{metric.title} {metric.text(summary.scores)}" for metric in table.metrics_on("console")))
    scores = scored.as_json()
    say(trust_sentence(scores))
    with new_artifact(out, "evaluation", config=config, inputs={"dataset": dataset, "model": model}) as writer:
        write_json(writer.path / SCORES_FILE, scores)
        scored.extractor.save(writer.path / EXTRACTOR_FOLDER)
        scored.reference.save(writer.path)
        scored.statistics.save(writer.path)
        save_array(writer.path / SAMPLE_FEATURES_FILE, scored.samples.features)
        scored.write_pictures(writer.path, config.neighbour_rows)
        writer.counts = {"samples": len(scored.images), "real": scored.reference.real_count, **data.counts}
        writer.details = {**_description(data), "scores": scores}
    return summary


class Rescored(NamedTuple):
    """The scores of another model, and the features of its samples [M, D]."""

    summary: EvaluateSummary
    features: Floats32


def rescore(evaluation: Path, model: Path) -> Rescored:
    """Score another model exactly like the model of an evaluation: same extractor, real features, counts and seeds.

    `model` is a model artifact or a version of a registry. Raises ArtifactError.
    """
    manifest = read_manifest(evaluation, "evaluation")
    config = EvaluateConfig.model_validate(manifest.config)
    extractor = extractors.load(evaluation / EXTRACTOR_FOLDER)
    reference = load_reference(evaluation, manifest.counts["real"])
    size, channels = extractor.settings.image_size, extractor.settings.channels
    samples = features_of(_draw(model, config, (size, size, channels)), extractor)
    scores = manifest.details["scores"]
    baselines = {name: scores.get(name) for name in ("floor", "ceiling", "useless")}
    origin = {**scores["provenance"], **program()}
    real = load_real_statistics(evaluation)
    return Rescored(measure(reference, samples, config, origin, real=real, baselines=baselines).summary, samples.features)


def _draw(model: Path, config: EvaluateConfig, shape: tuple[int, ...]) -> Images:
    samples = sample_in_fresh_process(model, config.samples, config.seed)
    if (samples == samples[:1]).all():
        say(f"all {len(samples):,} samples of {model} are the same image: the generator has collapsed")
    _check_shape(str(model), samples.shape[1:], shape)
    return samples


def _check_shape(name: str, made: tuple[int, ...], needed: tuple[int, ...]) -> None:
    if made != needed:
        sizes = ["×".join(map(str, shape)) for shape in (made, needed)]
        raise ArtifactError(
            f"{name} generates images of {sizes[0]}, the dataset has {sizes[1]}.",
            "Train on this dataset, or evaluate on the one that the model was trained on.",
        )


def _shape(manifest: Manifest) -> tuple[int, ...]:
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    return size, size, channels


def _description(data: Manifest) -> dict[str, Any]:
    dataset = {
        "digest": data.digest,
        "source": data.config.get("source", ""),
        "image_size": data.details["image_size"],
        "channels": data.details["channels"],
        "label_names": data.details.get("label_names", []),
        "counts": data.counts,
    }
    return {"image_size": data.details["image_size"], "channels": data.details["channels"], "dataset": dataset}
