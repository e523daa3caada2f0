"""The command line. Imports nothing heavy: --help and compile work without TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from components.common.errors import ConfigError, PipelineError
from pipeline.commands import registry, remote
from pipeline.config import load_config

QUICKSTART = "quickstart.toml"

app = typer.Typer(
    name="wgan-pipeline",
    help="Train an image generator (WGAN-GP) again and again: ingest, validate, train, evaluate, push if better, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Config = Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="TOML file; without it configs/quickstart.toml.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key; repeatable.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of the runs (run.dir).")]


app.add_typer(registry.app, name="registry")
app.add_typer(remote.app, name="schedule")


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Take the options of every command; main() looks at --debug before anything can fail."""


@app.command()
def run(
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    runner: Annotated[
        Literal["subprocess", "docker"], typer.Option(help="Steps as processes, or each in the container of deploy.image.")
    ] = "subprocess",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and the plan; touch nothing.")] = False,
) -> None:
    """Run the whole pipeline here."""
    from pipeline.commands import printing
    from pipeline.targets.local import run as local

    loaded = load_config(config or shipped_config(QUICKSTART), overrides)
    if dry_run:
        printing.plan(loaded)
        return
    summary = local.run_locally(loaded, printing.console(), runner)
    printing.outcome(summary, Path(loaded.run.dir) / str(summary["run_id"]))
    raise typer.Exit(int(summary["exit_code"]))


@app.command("compile")
def compile_(
    config: Annotated[Path, typer.Argument(help="TOML file.")],
    target: Annotated[str, typer.Option(help="kubeflow or vertex.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .yaml.")],
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write the pipeline as a file for Kubeflow Pipelines or Vertex AI."""
    remote.compiler(target)(load_config(config, overrides), output)
    print(f"Wrote {output} for {target}.")


@app.command()
@remote.names_platform
def submit(
    where: remote.Where,
    config: Annotated[Path | None, typer.Argument(help="TOML file, or what compile made of it.")] = None,
    overrides: Overrides = [],  # noqa: B006
    name: Annotated[str, typer.Option(help="How the run's name begins.")] = "",
    experiment: remote.Experiment = remote.NAME,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end; the exit code is the run's.")] = True,
    follow: Annotated[str, typer.Option(metavar="RUN_ID", help="Submit nothing: wait for this run.")] = "",
) -> None:
    """Run the pipeline on Kubeflow or Vertex AI: upload, start, wait, and end as the run ended."""
    if follow:
        raise typer.Exit(remote.follow(where.connect(), follow))
    if config is None:
        raise ConfigError("Name a config file to submit, or a run with --follow.", "The ones that ship are in configs/.")
    raise typer.Exit(remote.submit(config, overrides, where, experiment=experiment, name=name, wait=wait))


@app.command("tpu-check")
def tpu_check(
    config: Annotated[Path, typer.Argument(help="TOML file.")],
    topology: Annotated[str, typer.Option(help="Slice, such as v5e:2x4 or v4:2x2x1; else deploy.tpu_topology.")] = "",
    overrides: Overrides = [],  # noqa: B006
    images: Annotated[int, typer.Option(min=0, help="Training images; 0: not known.")] = 0,
    classes: Annotated[int, typer.Option(min=2, help="Labels, with train.conditional.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile the training for a TPU that is not there: will it fit, and how fast can it be."""
    from pipeline.commands import tpu_check

    raise typer.Exit(tpu_check.check(load_config(config, overrides), topology, images, classes, as_json))


@app.command()
def generate(
    model: Annotated[
        str, typer.Argument(help="A registry or a version (a folder or a gs:// address), a model artifact or a SavedModel.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    count: Annotated[int, typer.Option(min=1, help="Images to draw.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")] = 0,
    label: Annotated[
        int | None, typer.Option(min=0, help="Only images of this label, of a model trained with train.conditional.")
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Draw latent values beyond ± this again: more typical, less varied (Brock et al. 2019)."),
    ] = None,
    interpolate: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Also draw rows of so many images from one latent to the next.")
    ] = 0,
) -> None:
    """Draw images with a generator: one PNG each and a grid."""
    from pipeline.commands import generate

    print(generate.draw(model, out, count, seed, label, truncation=truncation, steps=interpolate))


@app.command()
def runs(runs_dir: RunsDir = Path("runs")) -> None:
    """List the runs with their scores and decisions."""
    from pipeline.commands import printing

    printing.runs(runs_dir)


@app.command()
def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or latest.")] = "latest",
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Put two finished runs side by side on one page.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Say how a run ended and where its report is, or compare two runs."""
    from pipeline.commands import printing

    if compare:
        print(f"Comparison {printing.comparison(runs_dir, *compare)}")
    else:
        printing.report(runs_dir / run_id)


@app.command()
def doctor() -> None:
    """Say what this machine can and cannot do, and how to mend it."""
    from pipeline.commands import doctor as checks

    raise typer.Exit(checks.examine())


def shipped_config(name: str) -> Path:
    """Return a config that ships with the program: of the checkout, or of the installed package."""
    for folder in (Path(__file__).parent.parent / "configs", Path(__file__).parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name} is not where this program was installed.", "Name a config file.")


def main() -> None:
    """Run the command line; an error is one line with problem and cure, and the exit code of its kind."""
    if "--debug" in sys.argv:
        app()
        return
    try:
        app()
    except PipelineError as error:
        raise SystemExit(_complain(str(error), error.exit_code)) from None
    except Exception as error:  # noqa: BLE001 - the last place: said in one line, and never as success
        reason = (str(error).strip() or "no message").splitlines()[0]
        sentence = f"{type(error).__name__}: {reason} This is a fault of the program; --debug shows where."
        raise SystemExit(_complain(sentence, 1)) from None


def _complain(sentence: str, code: int) -> int:
    print(f"wgan-pipeline: {sentence}", file=sys.stderr)
    return code
