"""What the commands share for printing."""

from __future__ import annotations

import sys

from rich.console import Console


def console() -> Console:
    """Return a console for stdout; pipes and files get lines of any length."""
    return Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False)
