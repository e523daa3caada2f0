"""The command that starts a step: Python replaces KFP's shell (of every step: tests/targets), and other forms are refused."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from kfp import dsl

from components.common.errors import ConfigError
from pipeline import steps


def command_of(component: dsl.base_component.BaseComponent) -> list[str]:
    return list(component.component_spec.implementation.container.command)


def test_the_shell_becomes_the_program_with_its_arguments_and_environment(tmp_path: Path) -> None:
    """The script is run with a program in the place of python3 that prints what it got and waits for a signal."""
    program = tmp_path / "python3"
    program.write_text('#!/bin/sh\ntrap "exit 7" TERM; echo "$$ $_KFP_RUNTIME $*"; cat "$4"; while :; do sleep 0.1; done\n')
    program.chmod(0o755)
    shell, option, script, _ = command_of(steps.train)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    words = [shell, option, script, "the source", "--executor_input", "{ }"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid, runtime, said = process.stdout.readline().strip().split(" ", 2)
        assert (int(pid), runtime) == (process.pid, "true")
        assert said.startswith("-m kfp.dsl.executor_main --component_module_path /")
        assert said.endswith("/ephemeral_component.py --executor_input { }")
        assert process.stdout.read(10) == "the source"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 7


@pytest.mark.parametrize(
    "command",
    [
        ["python3", "-m", "kfp.dsl.executor_main"],
        ["sh", "-c", "a\n_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main\n", "source"],
        ["sh", "-ec", "a\npython3 -m kfp.dsl.executor_main\n", "source"],
        ["sh", "-ec", "a\n_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main\nrm x\n", "source"],
        ["sh", "-c", "pip install", "sh", "-ec", "a\n_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main\n", "source"],
    ],
)
def test_a_command_of_another_form_is_refused(command: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        steps.replace_shell(command)
    assert str(caught.value) == (
        "This version of kfp starts steps by another command, with which they may not receive SIGTERM. Install kfp==2.17.0."
    )
