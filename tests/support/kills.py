"""A process that is killed before or after any change of a store, simulated by an exception that no code handles."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from components.common.store import Bucket, Folder


class KilledError(BaseException):
    """Ends the work where no code handles it."""


@contextlib.contextmanager
def killed_at(moment: int) -> Iterator[list[int]]:
    """Raise KilledError at the n-th moment, before or after a change of a store; yield a list that then has an entry.

    The error does not leave the block.
    """
    moments, reached = iter(range(1, 10_000)), list[int]()

    def check() -> None:
        if reached or next(moments) == moment:  # a killed process changes nothing afterwards either
            reached.append(moment)
            raise KilledError

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            check()
            result = original(*arguments, **named)
            check()
            return result

        return call

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KilledError):
        for kind in (Folder, Bucket):
            for name in ("write", "create", "delete", "remove"):
                patch.setattr(kind, name, dying(getattr(kind, name)))
        yield reached
