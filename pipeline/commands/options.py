"""Options that several commands share, among them those that select a platform."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.common.errors import ConfigError
from pipeline.config import RunConfig, load_config
from pipeline.parameters import PARAMETERS, Parameter, as_overrides, runtime_parameters

if TYPE_CHECKING:
    from pipeline.targets.remote import CompiledPipeline, RemotePlatform

EXPERIMENT = "wgan-tpu-pipeline"
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key; repeatable.")]
RunsDir = Annotated[str, typer.Option("--runs-dir", help="Folder, gs:// or s3:// URL of the runs (run.dir).")]
Experiment = Annotated[str, typer.Option(help="Experiment that the runs belong to; of schedules on Vertex, only a label.")]


@dataclasses.dataclass(frozen=True)
class PlatformOptions:
    """The options that select a platform."""

    target: Annotated[str, typer.Option(help="kubeflow or vertex.")] = "kubeflow"
    host: Annotated[
        str, typer.Option(help="URL of Kubeflow Pipelines (https://HOST/pipeline or a port-forward), or a Vertex endpoint.")
    ] = ""
    token_file: Annotated[
        Path | None, typer.Option(help="Kubeflow: file with the bearer token; read again when the token is refused.")
    ] = None
    namespace: Annotated[str, typer.Option(help="Kubeflow: namespace, in a multi-user installation.")] = ""
    project: Annotated[str, typer.Option(help="Vertex: Google Cloud project.")] = ""
    region: Annotated[str, typer.Option(help="Vertex: region of the runs, such as europe-west4.")] = ""

    def connect(self, cluster_zone: str = "UTC") -> RemotePlatform:
        """Return the platform's client. Raises ConfigError for an unknown target and for missing or invalid options."""
        find_compiler(self.target)
        if self.target == "vertex":
            from pipeline.targets.vertex.client import VertexClient

            if not (self.project and self.region):
                missing = "region" if self.project else "project"
                raise ConfigError(f"--{missing} is missing.", "Vertex needs --project NAME and --region, such as europe-west4.")
            return VertexClient(self.project, self.region, self.host)
        from pipeline.targets.kubeflow.client import KubeflowClient

        if not self.host:
            raise ConfigError("--host is missing.", "Give the URL of Kubeflow Pipelines, such as http://localhost:8080.")
        token = functools.partial(_read_token, self.token_file)
        return KubeflowClient(self.host, token=token, namespace=self.namespace, cluster_zone=cluster_zone)


def with_platform_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of PlatformOptions in place of its parameter `platform`."""
    options = inspect.signature(PlatformOptions, eval_str=True).parameters
    return _with_options(command, "platform", options.values(), PlatformOptions)


def with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each parameter of a run in place of its parameter `parameters`, which gets overrides."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    options = [inspect.Parameter(each.name, kind, default=None, annotation=_option(each)) for each in PARAMETERS]
    return _with_options(command, "parameters", options, lambda **given: as_overrides(given))


def _option(parameter: Parameter) -> Any:
    flag = f"--{parameter.name.replace('_', '-')}"
    names = f"{flag}/--no-{flag[2:]}" if parameter.type is bool else flag
    return Annotated[parameter.type | None, typer.Option(names, help=parameter.help)]


def _with_options(
    command: Callable[..., None], replaced: str, options: Iterable[inspect.Parameter], combine: Callable[..., Any]
) -> Callable[..., None]:
    """Return a command with `options` in place of one of its parameters, which gets `combine(**options)`."""
    options = list(options)

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        given = {each.name: arguments.pop(each.name) for each in options}
        command(**arguments, **{replaced: combine(**given)})

    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != replaced]
    parameters = [*own, *options]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # typer reads both
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def find_compiler(target: str) -> Callable[[RunConfig, Path], None]:
    """Return the function that compiles for a target. Raises ConfigError for an unknown one."""
    from pipeline.targets.kubeflow import compiler as kubeflow
    from pipeline.targets.vertex import compiler as vertex

    compilers = {"kubeflow": kubeflow.compile_pipeline, "vertex": vertex.compile_pipeline}
    if target not in compilers:
        raise ConfigError(f"--target {target} is unknown.", f"Use {' or '.join(compilers)}.")
    return compilers[target]


@contextlib.contextmanager
def compiled_pipeline(source: Path, overrides: list[str], target: str) -> Iterator[CompiledPipeline]:
    """Yield a compiled pipeline; `source` is a config, which is compiled with the overrides, or a file for `target`.

    For a file, the overrides become parameters of the run, so that runs with other settings use the same file.
    """
    from pipeline.targets.compiled import read_compiled
    from pipeline.targets.remote import CompiledPipeline

    compile_pipeline = find_compiler(target)
    if source.suffix in (".yaml", ".yml"):
        config = read_compiled(source, target)
        yield CompiledPipeline(source, config, runtime_parameters(config, overrides, target))
        return
    config = load_config(source, overrides)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compile_pipeline(config, file)
        yield CompiledPipeline(file, config, {})


def _read_token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read: {error}.") from None
