"""`wgan-pipeline score`: all metrics of some images against others, or the FID against published statistics."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from components.common.artifacts import new_artifact, write_json
from components.common.errors import ConfigError
from components.common.images import grid, png_bytes, viewable_scale
from components.common.progress import say
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor_training import external_extractor
from components.evaluate.metrics import fid, table
from components.evaluate.metrics.fid import Statistics
from components.evaluate.provenance import provenance
from components.evaluate.run import SCORES_FILE
from components.evaluate.scored import GRID_COLUMNS, GRID_IMAGES, score_images
from components.evaluate.scores import check_counts
from components.ingest.config import Decoding
from components.report.artifact_reader import ArtifactReader, open_finished
from components.report.plots.figures import Figure, figure
from components.report.rendering import render_sections
from components.report.sections.samples import ShownSamples
from components.report.sections.scores import PUBLISHED, ScoresSection
from components.score.prepared import common_shape, prepare_fake, prepare_real
from components.score.sources import Images, open_source, read_statistics


class Options(NamedTuple):
    """How images are scored; 0 means as many, as large and as colourful as they are."""

    config: EvaluateConfig
    samples: int = 0
    image_size: int = 0
    channels: int = 0
    labels_from_folders: bool = False
    work_dir: Path | None = None


class Result(NamedTuple):
    """The scores as plain JSON, and as a page that refers to nothing outside itself."""

    content: dict[str, Any]
    page: str


def score(real: str, fake: str, options: Options) -> Result:
    """Score the images at `fake` against those at `real`, or against published statistics in an .npz.

    Raises ConfigError, DataRejectedError or ArtifactError for sides that cannot be read or compared.
    """
    config, seed = options.config, options.config.seed
    with tempfile.TemporaryDirectory(prefix="wgan-score-") as folder, contextlib.ExitStack() as stack:
        scratch = Path(folder)
        statistics = read_statistics(real)
        locations = {"REAL": real, "FAKE": fake} if statistics is None else {"FAKE": fake}
        sources = {
            side: open_source(side, location, options.samples or config.samples, seed, options.labels_from_folders, stack)
            for side, location in locations.items()
        }
        if statistics is not None:
            _check_external(config, statistics)
        decoding = Decoding(*common_shape(list(sources.values()), options.image_size, options.channels))
        say(f"comparing images of {decoding.image_size}×{decoding.image_size}×{decoding.channels}")
        images, of_fake = prepare_fake(sources["FAKE"], decoding, scratch / "fake.npy", options.samples, seed)
        if of_fake["different"] == 1:
            say(f"all {len(images):,} images of FAKE are the same image")
        config = config.model_copy(update={"samples": len(images)})
        weights = sources["FAKE"].weights
        if statistics is not None:
            return _against_statistics(real, statistics, images, of_fake, config, weights)
        real_images, of_real = prepare_real(sources["REAL"], decoding, scratch / "real.npy")
        check_counts(config, len(real_images.train.images), len(real_images.held_out.images))
        dataset = Path(sources["REAL"].location) if sources["REAL"].digest == real_images.digest else None
        work_dir = options.work_dir or scratch / "work"
        scored = score_images(config, real_images, lambda: images, work_dir, dataset=dataset, weights=weights)
        content = {"real": of_real, "fake": of_fake, **scored.as_json()}
        content["not_measured"] = _not_measured(content, "needs REAL with at least two labels, and the default extractor")
        with new_artifact(scratch / "evaluation", "evaluation", config=config) as writer:
            write_json(writer.path / SCORES_FILE, content)
            scored.write_pictures(writer.path, config.neighbour_rows)
        section = ScoresSection(open_finished("evaluation", scratch / "evaluation", content))
        return Result(content, _page(content, images, real_images.train.images[:GRID_IMAGES], section))


def _check_external(config: EvaluateConfig, statistics: Statistics) -> None:
    if config.extractor != "inception" and not config.extractor.startswith("savedmodel:"):
        raise ConfigError(
            f"REAL holds the statistics of {len(statistics.mean):,} features, not images: the default extractor is made from "
            "real images.",
            "Use --extractor inception, or the SavedModel that these features come from.",
        )


def _against_statistics(
    real: str, statistics: Statistics, images: Images, of_fake: dict[str, Any], config: EvaluateConfig, weights: str
) -> Result:
    extractor = external_extractor(config, images.shape[1], images.shape[3])
    if extractor.width != len(statistics.mean):
        raise ConfigError(
            f"REAL holds statistics of {len(statistics.mean):,} features; the extractor computes {extractor.width:,}.",
            "Use the extractor that the statistics were computed with.",
        )
    value = fid.statistics_to_metric(statistics, fid.features_to_statistics(extractor.features(images)))
    origin = provenance(config, extractor, fid.digest(statistics), 0, 0, weights)
    origin["real"] = {"split": "published statistics", "dataset": origin["real"]["dataset"]}
    content: dict[str, Any] = {
        "real": {"location": real, "kind": "statistics", "features": len(statistics.mean)},
        "fake": of_fake,
        "fid": value,
        "provenance": origin,
    }
    content["not_measured"] = _not_measured(content, "needs real images; REAL is published statistics")
    return Result(content, _page(content, images, None, ScoresSection(ArtifactReader("", None, content), comparable=PUBLISHED)))


def _not_measured(content: dict[str, Any], reason: str) -> dict[str, str]:
    return {metric.name: reason for metric in table.METRICS if metric.name not in content}


def _page(content: dict[str, Any], fake: Images, real: Images | None, scores: ScoresSection) -> str:
    titles = {metric.name: metric.title for metric in table.METRICS}
    missing = {titles[name]: reason for name, reason in content["not_measured"].items()}
    samples = ShownSamples(_grid(fake, "FAKE"), None if real is None else _grid(real, "REAL"))
    real_name, fake_name = (Path(content[side]["location"]).name for side in ("real", "fake"))
    title = f"Scores of {fake_name} against {real_name}"
    return render_sections(title, compared=content | {"not_measured": missing}, samples=samples, scores=scores)


def _grid(images: Images, name: str) -> Figure:
    png = png_bytes(grid(images[:GRID_IMAGES], GRID_COLUMNS, viewable_scale(images.shape[1])))
    return figure(png, f"Grid of images of {name}", f"The first images of {name}.")
