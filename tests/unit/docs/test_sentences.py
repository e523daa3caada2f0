"""tests/sentences.txt holds every sentence that a user can get, so that their English can be read in one place."""

from __future__ import annotations

import ast

from tests.support.sentences import FILE, Collector, collected

MODULE = '''
"""A docstring is not shown."""
WHERE = "Name a folder, or a file."

class OurError(Exception):
    """Nor is this."""

def no_folder(path) -> OurError:
    return OurError(f"{path} is not a folder.", WHERE)

def in_words(count) -> str:
    return f"{count:,} images" if count > 1 else "only one image"

@app.command()
def remove(dry: Annotated[bool, Option("--dry", help="Print what would be removed.")] = False):
    """Remove old
    versions.
    """
    size: int = Field(8, description="Height and width in pixels.")
    say(f"{size} of {max(1, 2)} are {'well done' if size else 'not done'}")
    say(in_words(3))
    rest = "Run again to " + ("go on." if dry else "start over.")
    raise ValueError(rest) if dry else no_folder("somewhere else")
    log("not shown to anybody")
'''


def test_every_kind_of_sentence_is_found_in_order() -> None:
    tree = ast.parse(MODULE)
    assert Collector([tree]).sentences(tree) == [
        "{…} is not a folder.", "Name a folder, or a file.", "Remove old versions.", "Print what would be removed.",
        "Height and width in pixels.", "{…} of {…} are {…}", "well done", "not done", "{…} images", "only one image",
        "Run again to", "go on.", "start over.", "somewhere else",
    ]  # fmt: skip


def test_the_list_is_current() -> None:
    assert FILE.read_text() == collected(), "run: python -m tests.support.sentences"
