"""`score`: the scores of any images against any others."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from components.common.errors import ConfigError
from components.evaluate.config import KINDS
from pipeline.commands.options import Overrides
from pipeline.commands.printing import console
from pipeline.config import load_config

SIDE = "a folder, pattern, archive or URL of images, .npy, .npz, dataset or model artifact, SavedModel"


def score(
    real: Annotated[str, typer.Argument(metavar="REAL", help=f"Real images: {SIDE}, or .npz with mu and sigma.")],
    fake: Annotated[str, typer.Argument(metavar="FAKE", help=f"Images to score: {SIDE}.")],
    extractor: Annotated[str, typer.Option(help="default (trained on REAL), inception, or a SavedModel's folder.")] = "default",
    samples: Annotated[
        int, typer.Option(min=0, help="Images to draw from a generator (0: 2,000), or to choose from FAKE (0: all).")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples and of the random subsets.")] = 0,
    image_size: Annotated[int, typer.Option(min=0, help="Height and width to resize to; 0: all images have one size.")] = 0,
    channels: Annotated[int, typer.Option(min=0, max=3, help="1 grey, 3 RGB; 0: those of the images.")] = 0,
    labels_from_folders: Annotated[
        bool, typer.Option("--labels-from-folders", help="The name of an image's folder in REAL is its label.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    work_dir: Annotated[Path | None, typer.Option(help="Keep extractors here, such as runs/.work; default: nowhere.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Also write a page.")] = None,
) -> None:
    """Score images against others: the metrics of the pipeline, how they were measured, and the best and worst images."""
    from components.common.artifacts import write_text
    from components.generator.generator import ENVIRONMENT
    from components.score.run import Options
    from components.score.run import score as score_sides

    _check(image_size, channels, overrides)
    if extractor != "default":
        kind = extractor if extractor in KINDS else f"savedmodel:{extractor.removeprefix('savedmodel:')}"
        overrides = [*overrides, f"evaluate.extractor={json.dumps(kind)}"]
    config = load_config(None, [*overrides, f"evaluate.seed={seed}"]).evaluate
    options = Options(config, samples, image_size, channels, labels_from_folders, work_dir)
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})  # TensorFlow is quiet
    with contextlib.redirect_stdout(sys.stderr):  # progress lines; stdout is for the result
        result = score_sides(real, fake, options)
    if report:
        write_text(report, result.page)
    if as_json:
        print(json.dumps(result.content, indent=1, ensure_ascii=False))
        return
    _print(result.content)
    if report:
        print(f"Page {report}")


def _check(image_size: int, channels: int, overrides: list[str]) -> None:
    if 0 < image_size < 8 or image_size > 1024:
        raise ConfigError(f"--image-size {image_size} cannot be scored.", "Use 8 to 1024.")
    if channels == 2:
        raise ConfigError("--channels 2 is neither grey nor RGB.", "Use 1 or 3.")
    if other := next((override for override in overrides if not override.startswith("evaluate.")), ""):
        raise ConfigError(f"--set {other} has no effect on scores.", "Set keys of [evaluate].")


def _print(content: dict[str, Any]) -> None:
    from components.evaluate.metrics.table import METRICS
    from components.report.formatting import number
    from components.report.sections.scores import how_measured

    table = Table(box=None, pad_edge=False)
    for heading in ("score", "value", "95 % interval", "real images", "noise"):
        table.add_column(heading, justify="left" if heading == "score" else "right")
    table.add_column("how to read it")
    floor, ceiling, intervals = (content.get(key) or {} for key in ("floor", "ceiling", "intervals"))
    for metric in METRICS:
        if metric.name in content:
            interval = intervals.get(metric.name) or ()
            beside = [metric.text({metric.name: side.get(metric.name)}) for side in (floor, ceiling)]
            shown = " to ".join(metric.text({metric.name: end}) for end in interval)
            table.add_row(metric.title, f"[bold]{metric.text(content)}[/]", shown, *beside, metric.reading)
    out = console()
    out.print(table)
    for side in ("real", "fake"):
        about = content[side]
        text = f"{about.get('features')} features"
        if "images" in about:
            left_out = f", {about['left_out']} unreadable left out" if about["left_out"] else ""
            resized = "not resized" if about["resize"].startswith("none") else f"resized to {about['scored_at']} as ingest does"
            counts = f"{number(about['images'])} images ({number(about['different'])} different{left_out})"
            text = f"{counts}, {about['sizes']}, {resized}"
        out.print(f"{side.upper()}: {escape(about['location'])}: {about['kind']}, {text}", style="dim")
    out.print(how_measured(content), style="dim")
    for reason in dict.fromkeys(content["not_measured"].values()):
        names = ", ".join(metric.title for metric in METRICS if content["not_measured"].get(metric.name) == reason)
        out.print(f"Not measured: {names}. Each {reason}.", style="dim")
