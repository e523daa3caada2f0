"""Options that several commands share, among them those that select a platform."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.common.errors import ConfigError
from pipeline.config import RunConfig, load_config

if TYPE_CHECKING:
    from pipeline.targets.remote import RemotePlatform

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

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        platform = PlatformOptions(**{name: arguments.pop(name) for name in options})
        command(**arguments, platform=platform)

    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "platform"]
    parameters = [*own, *options.values()]
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
def compiled_pipeline(source: Path, overrides: list[str], target: str) -> Iterator[tuple[Path, RunConfig]]:
    """Yield a compiled file and its config; `source` is a config, or a file that was compiled for `target`."""
    compile_pipeline = find_compiler(target)
    if source.suffix in (".yaml", ".yml"):
        from pipeline.targets.compiled import read_compiled

        if overrides:
            raise ConfigError(f"--set cannot change {source}, which is compiled.", "Use --set when compiling it.")
        yield source, read_compiled(source, target)
        return
    config = load_config(source, overrides)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compile_pipeline(config, file)
        yield file, config


def _read_token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read: {error}.") from None
