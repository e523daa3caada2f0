"""The command line. It imports nothing heavy: --help, config and compile work without TensorFlow."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from components.common.errors import PipelineError, first_line
from pipeline.commands import (
    compile,
    config,
    doctor,
    generate,
    registry,
    run,
    runs,
    schedule,
    score,
    submit,
    tpu_check,
    tpu_first_hour,
    watch,
)

app = typer.Typer(
    name="wgan-pipeline",
    help="Train an image generator (WGAN-GP) again and again: ingest, validate, train, evaluate, push if better, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run.run)
app.command("compile")(compile.compile_)
app.command()(submit.submit)
app.add_typer(schedule.app, name="schedule")
app.command("tpu-check")(tpu_check.tpu_check)
app.command("tpu-first-hour")(tpu_first_hour.tpu_first_hour)
app.command()(generate.generate)
app.command()(score.score)
app.command()(runs.runs)
app.command()(runs.report)
app.command()(watch.watch)
app.add_typer(registry.app, name="registry")
app.command()(config.config)
app.command()(doctor.doctor)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Declare the options of every command; main() reads --debug itself, before anything can fail."""


def main() -> None:
    """Run the command line; an error is one line with problem and cure, and has the exit code of its kind."""
    if "--debug" in sys.argv:
        app()
        return
    try:
        app()
    except PipelineError as error:
        raise SystemExit(_print_error(str(error), error.exit_code)) from None
    except Exception as error:  # noqa: BLE001 - the outermost place: printed in one line, never a success
        sentence = f"{type(error).__name__}: {first_line(error)}. This is a bug; --debug shows where."
        raise SystemExit(_print_error(sentence, 1)) from None


def _print_error(sentence: str, code: int) -> int:
    print(f"wgan-pipeline: {sentence}", file=sys.stderr)
    return code
