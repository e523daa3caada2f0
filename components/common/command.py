"""The command line of `python -m components.STEP`, which runs one component on directories."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError

from components.common.addresses import is_address
from components.common.errors import ConfigError, PipelineError
from components.common.section import Section, Summary

S = TypeVar("S", bound=Section)


def read_section(section: type[S], name: str, file: Path | None) -> S:
    """Read a component's config section from a TOML file: its [name] table, or the whole file when it has no tables.

    Without a file, return the defaults. Raises ConfigError with the key, the value and what is allowed.
    """
    if file is None:
        return section()
    try:
        content = tomllib.loads(file.read_text())
        tables = any(isinstance(value, dict) for value in content.values())
        return section.model_validate_json(json.dumps(content.get(name, {} if tables else content), default=str))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.", "Name a TOML file.") from None
    except ValidationError as error:
        raise ConfigError(explain(error, section, name), f"Correct {file}.") from None


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Return one line for all errors of a configuration: key, value and what is allowed."""
    sentences = []
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        key = ".".join([prefix] * bool(prefix) + location)
        if item["type"] == "extra_forbidden":
            sentences.append(f"{key}: unknown key; {_suggestion(model, location)}")
            continue
        what = str(item["ctx"]["error"]) if item["type"] == "value_error" and "ctx" in item else item["msg"]
        shown = "" if isinstance(item["input"], dict) else f" = {item['input']!r}"
        # A check across sections has no key; its message names the keys.
        sentences.append(f"{key}{shown}: {what[:1].lower()}{what[1:]}" if key else what)
    return "; ".join(sentences) + "." * (not sentences[-1].endswith("?"))


def _suggestion(model: type[BaseModel], location: list[str]) -> str:
    """Return a hint for an unknown key: the most similar key, else the same key of another section, else all of its section."""
    sections = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    for part in location[:-1]:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = cast(type[BaseModel], fields[part].annotation)
    names = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(location[-1], names, n=1)
    near = near or [
        f"{name}.{location[-1]}" for name, kind in sections.items() if location[-1] in getattr(kind, "model_fields", ())
    ]
    return f"did you mean {near[0]}?" if near else f"the known keys are {', '.join(names)}"


def main(
    name: str,
    section: type[S],
    run: Callable[..., Summary],
    inputs: dict[str, str],
    argv: list[str] | None = None,
) -> int:
    """Parse `--config FILE --INPUT DIR … --out DIR`, run the component, print its summary and return the exit code.

    `inputs` maps each keyword of `run` that takes a directory to its help text.
    """

    def directory(text: str) -> Path | str:
        return text if is_address(text) else Path(text)

    parser = argparse.ArgumentParser(prog=f"python -m components.{name}")
    parser.add_argument("--config", type=Path, help=f"TOML file with a [{name}] table")
    for keyword, text in inputs.items():
        parser.add_argument(f"--{keyword.replace('_', '-')}", dest=keyword, type=directory, required=True, help=text)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it appears when the step succeeds")
    arguments = parser.parse_args(argv)
    try:
        config = read_section(section, name, arguments.config)
        directories = {keyword: getattr(arguments, keyword) for keyword in inputs}
        summary = run(config, **directories, out=arguments.out)
    except PipelineError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    print(summary.model_dump_json(indent=1))
    return 0
