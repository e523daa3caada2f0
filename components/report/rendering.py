"""Renders the templates of the report."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jinja2

from components.report import formatting

ROOM = Path(__file__).parent


def render(template: str, page: object) -> str:
    """Return one HTML document that refers to nothing outside itself; every value is escaped."""
    return _environment().get_template(template).render(page=page)


def render_sections(title: str, **sections: object) -> str:
    """Return some sections of the report as one HTML document; a section has the name of its template."""
    return render("sections.html.j2", SimpleNamespace(title=title, sections=list(sections), **sections))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([ROOM / "templates", ROOM / "sections"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"formatting": formatting, "style": (ROOM / "templates" / "report.css").read_text()}
    return environment
