"""The variables of a training as named arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from components.train.progress import Weights
from components.train.step import State


def named_variables(state: State) -> list[tuple[str, Any]]:
    """Return all variables of the state with their names: networks, moving average and both optimizers."""
    named = []
    for part in state._fields:
        owner = getattr(state, part)
        named += [(f"{part}/{index:03d}/{variable.name}", variable) for index, variable in enumerate(owner.variables)]
    return named


def state_arrays(state: State) -> dict[str, npt.NDArray[Any]]:
    """Return the values of all variables by name."""
    return {name: variable.numpy() for name, variable in named_variables(state)}


def averages(state: State) -> Weights:
    """Return the moving average of the generator's weights."""
    return [variable.numpy() for variable in state.ema_generator.variables]


def load_arrays(state: State, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Set all variables from `arrays`, which must have the same names and shapes. Raises KeyError, ValueError."""
    for name, variable in named_variables(state):
        variable.assign(arrays[name])
