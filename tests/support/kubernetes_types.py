"""Checks of objects against the types of the Kubernetes API, as in its own client."""

from __future__ import annotations

import re
from typing import Any

from kubernetes import client

PLAIN = {"str": str, "int": int, "bool": bool, "object": object, "float": float}


def check(value: Any, kind: str, where: str) -> None:
    """Check names, types and required fields of a value against a type of the Kubernetes API."""
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        assert isinstance(value, list), where
        for index, each in enumerate(value):
            check(each, found[1], f"{where}[{index}]")
    elif found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        assert isinstance(value, dict), where
        for key, each in value.items():
            check(each, found[1], f"{where}.{key}")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{where} is {value!r}, not a {kind}"
    else:
        message = getattr(client, kind)
        names = {there: here for here, there in message.attribute_map.items()}
        assert isinstance(value, dict), where
        assert not value.keys() - names.keys(), f"{where}: {kind} does not have {value.keys() - names.keys()}"
        message(**{names[key]: each for key, each in value.items()})  # raises for a missing required field
        for key, each in value.items():
            check(each, message.openapi_types[names[key]], f"{where}.{key}")
