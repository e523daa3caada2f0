"""The documents name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:components|pipeline|tests|docs|deploy|benchmarks|configs)/[\w./-]*\w)/?`")
PLACEHOLDERS = ("NAME", "X")  # of CONTRIBUTING.md and the decisions


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [link for link in LINK.findall(text) if not link.startswith(("http", "mailto:"))]
    paths = [path for path in PATH.findall(text) if not set(re.split(r"[/.]", path)) & set(PLACEHOLDERS)]
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []
