"""The evaluate step: score a generator against real images, and score another model in exactly the same way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import Manifest, new_artifact, read_manifest, write_json
from components.common.errors import ArtifactError
from components.common.images import grid, viewable_scale, write_png
from components.common.progress import say
from components.dataset.stored_images import StoredImages, StoredSet, open_split
from components.evaluate.baselines import floor_and_ceiling
from components.evaluate.config import EvaluateConfig
from components.evaluate.features import extractor as extractors
from components.evaluate.features.extractor import AnyExtractor, Extractor, Floats32
from components.evaluate.features.extractor_training import extractor_for
from components.evaluate.metrics import table
from components.evaluate.metrics.memorization import worst_pairs
from components.evaluate.metrics.tiles import nearest_images
from components.evaluate.provenance import program, provenance
from components.evaluate.real_statistics import load_real_statistics, probabilities_of, real_statistics_of
from components.evaluate.reference_cache import cached_reference
from components.evaluate.scores import (
    SAMPLE_FEATURES_FILE,
    EvaluateSummary,
    Reference,
    Samples,
    check_counts,
    load_reference,
    measure,
    modes,
    save_array,
)
from components.generator.generator import sample_in_fresh_process

SCORES_FILE = "scores.json"
EXTRACTOR_FOLDER = "extractor"
GRID_COLUMNS, GRID_IMAGES = 8, 64
NEIGHBOURS = 5
WORST_PAIRS, WORST_PAIRS_A_ROW = 16, 4

Images = npt.NDArray[np.uint8]


def run(config: EvaluateConfig, *, dataset: Path, model: Path, work_dir: Path, out: Path) -> EvaluateSummary:
    """Score `model` against `dataset` and write the evaluation artifact `out`; extractors are cached in `work_dir`.

    Samples are drawn from the SavedModel in a fresh process, as a user would do. Raises ArtifactError if the image sizes of
    model and dataset differ, DataRejectedError or ConfigError if there are too few images.
    """
    data = read_manifest(dataset, "dataset", verify=False)  # its shards are checked while they are read
    _check_shape("The model", _shape(read_manifest(model, "model")), _shape(data))
    check_counts(config, data.counts["train"], data.counts["eval"])
    train, held_out = open_split(dataset, "train"), open_split(dataset, "eval")
    say(f"drawing {config.samples:,} samples in a fresh process")
    with ThreadPoolExecutor(1) as background:
        # TensorFlow takes seconds to start, in that process and in this one, so they start at the same time.
        drawing = background.submit(_draw, model, config, train.images.shape[1:])
        extractor = extractor_for(config, dataset, data.digest, train, held_out, work_dir)
        real_count = min(len(train.images), config.real_images)
        reference = Reference(extractor.features(train.images), extractor.features(held_out.images), real_count)
        images = drawing.result()
    samples = _samples(images, extractor)
    origin = provenance(config, extractor, data.digest, real_count, len(held_out.images))
    cached = cached_reference(*reference, config, work_dir)
    baselines = floor_and_ceiling(config, reference, extractor, data.digest, work_dir, cached.side)
    real = real_statistics_of(train.images, real_count, train.labels, extractor.settings.classes)
    summary, nearest, distances = measure(reference, samples, config, origin, real=real, baselines=baselines, cached=cached)
    say(", ".join(f"{metric.title} {metric.text(summary.scores)}" for metric in table.metrics_on("console")))
    with new_artifact(out, "evaluation", config=config, inputs={"dataset": dataset, "model": model}) as writer:
        scores = summary.model_dump(mode="json") | _modes(extractor, train, samples.features, data)
        write_json(writer.path / SCORES_FILE, scores)
        extractor.save(writer.path / EXTRACTOR_FOLDER)
        reference.save(writer.path)
        real.save(writer.path)
        save_array(writer.path / SAMPLE_FEATURES_FILE, samples.features)
        _write_grids(writer.path, config, images, samples.features, train.images, reference.train)
        _write_worst_pairs(writer.path, images, train.images, worst_pairs(distances, nearest, WORST_PAIRS))
        writer.counts = {"samples": len(images), "real": real_count, **data.counts}
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
    samples = _samples(_draw(model, config, (size, size, channels)), extractor)
    scores = manifest.details["scores"]
    baselines = {name: scores.get(name) for name in ("floor", "ceiling")}
    origin = {**scores["provenance"], **program()}
    real = load_real_statistics(evaluation)
    return Rescored(measure(reference, samples, config, origin, real=real, baselines=baselines).summary, samples.features)


def _samples(images: Images, extractor: AnyExtractor) -> Samples:
    features = extractor.features(images)
    return Samples(features, images, probabilities_of(extractor, features))


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


def _modes(extractor: AnyExtractor, train: StoredSet, fake_features: Floats32, data: Manifest) -> dict[str, Any]:
    if not isinstance(extractor, Extractor) or extractor.settings.kind != "classifier":
        return {"modes": None}
    names = [str(name) for name in data.details.get("label_names", [])]
    return {"modes": modes(train.labels[train.labels >= 0], extractor.classes_of(fake_features), names)}


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


def _write_grids(
    folder: Path,
    config: EvaluateConfig,
    images: Images,
    features: Floats32,
    train_images: StoredImages,
    train_features: Floats32,
) -> None:
    rows = config.neighbour_rows
    scale = viewable_scale(images.shape[1])
    write_png(folder / "samples.png", grid(images[:GRID_IMAGES], GRID_COLUMNS, scale))
    nearest, _ = nearest_images(features[:rows], train_features, NEIGHBOURS)
    cells = np.concatenate([images[:rows, None], train_images[nearest]], axis=1)
    write_png(folder / "neighbours.png", grid(cells.reshape(-1, *images.shape[1:]), 1 + NEIGHBOURS, scale))


def _write_worst_pairs(folder: Path, samples: Images, train_images: StoredImages, pairs: list[tuple[int, int]]) -> None:
    fake, real = samples[[sample for sample, _ in pairs]], train_images[np.array([train for _, train in pairs])]
    cells = np.stack([fake, real], axis=1).reshape(-1, *samples.shape[1:])
    write_png(folder / "worst_pairs.png", grid(cells, 2 * WORST_PAIRS_A_ROW, viewable_scale(samples.shape[1])))
