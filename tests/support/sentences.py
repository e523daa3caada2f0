"""Every sentence that a user can get, collected from the source into tests/sentences.txt.

Run `python -m tests.support.sentences` to write that file again. It holds the texts of exceptions, of anomalies, of `say`,
`tick`, `print` and `echo`, of `help=`, `description=` and `cure=`, and the docstrings of commands. A value that is filled in
stands as {…}. A text in a variable is followed to its assignments in the same function or module, and the text that a function
returns to its `return` statements.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "sentences.txt"
PACKAGES = ("components", "pipeline")
PRINTED = {"say", "tick", "print", "echo", "secho", "Anomaly", "Distance"}
HELP = {"help", "description", "epilog", "cure"}
BUILT_IN = {"ValueError", "NotImplementedError", "SystemExit"}
HEAD = "Every sentence that a user can get, by file. Written by: python -m tests.support.sentences\n"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scopes = tuple[ast.AST, ...]  # the module and the functions around a place, from the outside in


class Collector:
    """Finds the sentences of modules that belong together."""

    def __init__(self, trees: Sequence[ast.Module]) -> None:
        nodes = [node for tree in trees for node in ast.walk(tree)]
        classes = {node.name for node in nodes if isinstance(node, ast.ClassDef) and node.name.endswith("Error")}
        self.shown = PRINTED | BUILT_IN | classes  # calls whose arguments a user can get
        self.returned = defaultdict[str, list[ast.expr]](list)  # what functions that return a text can return
        for node in nodes:
            if isinstance(node, Function) and node.returns:
                kind = ast.unparse(node.returns)
                if kind in BUILT_IN | classes:
                    self.shown.add(node.name)
                elif kind == "str":
                    self.returned[node.name] += [
                        each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value
                    ]

    def sentences(self, tree: ast.Module) -> list[str]:
        """Return the sentences of one module in the order of its lines, each once; single words are left out."""
        found: dict[str, None] = {}
        for scopes, node in _with_scopes(tree, (tree,)):
            if isinstance(node, ast.Call):
                shown = _name(node.func) in self.shown
                values = [keyword.value for keyword in node.keywords if shown or keyword.arg in HELP]
                for value in [*(node.args if shown else []), *values]:
                    found |= dict.fromkeys(self._texts(value, scopes))
            elif isinstance(node, Function) and any("command" in ast.unparse(each) for each in node.decorator_list):
                found[_one_line(ast.get_docstring(node) or "")] = None
        return [text for text in found if " " in text and any(letter.isalpha() for letter in text)]

    def _texts(self, value: ast.expr, scopes: Scopes) -> list[str]:
        """Return the texts that an expression can be; without scopes, variables and calls are not followed."""
        inner: Sequence[ast.expr] = ()
        match value:
            case ast.Constant(value=str(text)):
                return [_one_line(text)]
            case ast.JoinedStr(values=parts):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in parts)
                filled_in = [part.value for part in parts if isinstance(part, ast.FormattedValue)]
                return [_one_line(text), *(each for part in filled_in for each in self._texts(part, ()))]
            case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
                inner = (one, other)
            case ast.BoolOp(values=values) | ast.Tuple(elts=values) | ast.List(elts=values):
                inner = values
            case ast.Starred(value=starred):
                inner = (starred,)
            case ast.Name(id=name) if scopes:
                return [text for each in _assigned(name, scopes) for text in self._texts(each, ())]
            case ast.Call(func=function) if scopes:
                return [text for each in self.returned[_name(function)] for text in self._texts(each, ())]
        return [text for each in inner for text in self._texts(each, scopes)]


def _with_scopes(node: ast.AST, scopes: Scopes) -> Iterator[tuple[Scopes, ast.AST]]:
    """Give every node below `node` in the order of the source, with its scopes."""
    for child in ast.iter_child_nodes(node):
        yield scopes, child
        yield from _with_scopes(child, (*scopes, child) if isinstance(child, Function) else scopes)


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""


def _assigned(name: str, scopes: Scopes) -> Iterator[ast.expr]:
    """Give the values that are assigned to a variable, in a function around it or at the top of the module."""
    for scope in scopes:
        for node in ast.walk(scope) if isinstance(scope, Function) else getattr(scope, "body", ()):
            if isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets):
                yield node.value


def _one_line(text: str) -> str:
    return " ".join(text.split())


def collected() -> str:
    """Return what tests/sentences.txt must hold."""
    trees = {
        file.relative_to(ROOT).as_posix(): ast.parse(file.read_bytes())
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
    }
    collector = Collector(list(trees.values()))
    found = {name: collector.sentences(tree) for name, tree in trees.items()}
    return "\n".join(
        [HEAD, *(f"{name}\n" + "".join(f"    {text}\n" for text in texts) for name, texts in found.items() if texts)]
    )


if __name__ == "__main__":
    FILE.write_text(collected())
