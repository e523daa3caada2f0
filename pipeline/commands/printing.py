"""What the commands share for printing."""

from __future__ import annotations

import sys

from rich.console import Console


def console() -> Console:
    """Return a console for stdout; pipes and files get lines of any length, and tables up to 120 columns."""
    piped = not sys.stdout.isatty()
    return Console(file=sys.stdout, soft_wrap=piped, highlight=False, width=120 if piped else None)
