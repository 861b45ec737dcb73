"""One meaning per name: no two modules of the packages call different things alike, so that a search finds one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("calibration", "edge_sdk", "export", "trainer")


def is_command(node: ast.AST) -> bool:
    """Whether click makes a command of it: its name is the word on the command line, where each command has words of its own."""
    decorators = getattr(node, "decorator_list", [])
    called = [item.func if isinstance(item, ast.Call) else item for item in decorators]
    return any(isinstance(item, ast.Attribute) and item.attr in ("command", "group") for item in called)


def is_alias(node: ast.AST) -> bool:
    """Whether it names a type: `Level = Union[str, float]`."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return False
    name = node.targets[0].id
    return name[0].isupper() and not name.isupper()


def public_names(tree: ast.Module) -> Iterator[str]:
    """Classes, functions and types that a module defines at its top level, commands aside."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            name = "" if is_command(node) else node.name
        elif is_alias(node):
            name = ast.unparse(node.targets[0])  # type: ignore[attr-defined]
        else:
            name = ""
        if name and not name.startswith("_"):
            yield name


def homes(sources: dict[str, str]) -> dict[str, list[str]]:
    """The modules that define each name."""
    found = defaultdict(list)
    for path, text in sources.items():
        for name in public_names(ast.parse(text)):
            found[name].append(path)
    return found


def shared(sources: dict[str, str]) -> dict[str, list[str]]:
    """Names that several modules define."""
    return {name: paths for name, paths in homes(sources).items() if len(paths) > 1}


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    paths += sorted((ROOT / "src" / "rrise").glob("*.py"))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def test_no_name_has_two_meanings(sources: dict[str, str]) -> None:
    found = shared(sources)
    assert not found, f"call one of each otherwise, or keep the one that is meant in both places: {found}"


def test_a_second_meaning_is_found() -> None:
    sources = {
        "a": "class Source: ...\ndef score(): ...\nAnswer = int\n_State = int\nSIZE = 1",
        "b": "Source = str\nasync def score(): ...\nclass Answer: ...\nclass _State: ...\nSIZE = 2",
        "c": "@main.command()\ndef score(): ...",
    }
    assert shared(sources) == {name: ["a", "b"] for name in ("Source", "score", "Answer")}
