"""What commands print on terminals of 80, 100 and 120 characters: nothing is wider, and no word is broken."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rrise.calibration import console
from tests.trainer.helpers import copied

Rows = list[tuple[str, str]]
WIDTHS = (80, 100, 120)
PACKAGES = {
    "rrise-train": "trainer",
    "rrise-calibrate": "calibration",
    "rrise-export": "export",
    "rrise-edge": "edge_sdk",
}


def told(monkeypatch: pytest.MonkeyPatch, line: str) -> Rows:
    """The rows that a real command prints; each rrise command is `rrise-train calibrate W` and the like."""
    seen: list[Rows] = []
    original = console.block

    def spy(rows: Rows, width: int | None) -> list[str]:
        seen.append(list(rows))
        return original(rows, width)

    monkeypatch.setattr(console, "block", spy)
    name, *words = line.split()
    result = CliRunner().invoke(
        importlib.import_module(f"rrise.{PACKAGES[name]}.cli").main, words, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    (rows,) = seen
    return rows


def check(rows: Rows, *folders: Path) -> None:
    """Every width holds the lines of `rows`; paths of this machine are shortened first, for no one breaks a path."""
    for folder in sorted(folders, key=lambda path: -len(str(path))):
        rows = [(name, value.replace(str(folder), "runs/mine")) for name, value in rows]
    for width in WIDTHS:
        lines = console.block(rows, width)
        assert not [line for line in lines if len(line) > width]
        words = [word for name, value in rows for word in (*name.split(), *value.split())]
        assert " ".join(lines).split() == words


@pytest.mark.parametrize(
    "line",
    [
        "rrise-train base W",
        "rrise-train targets W",
        "rrise-train surrogate W",
        "rrise-train calibrate W",
        "rrise-train certify W",
        "rrise-train report W",
        "rrise-train study W --errors 0.01,0.05,0.2",
        "rrise-export onnx W",
    ],
)
def test_summaries_of_a_workspace(
    line: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(workspace, tmp_path)
    check(told(monkeypatch, line.replace(" W", f" {copy.path}")), copy.path)


@pytest.mark.parametrize("line", ["rrise-edge info B", "rrise-edge bench B --count 20"])
def test_summaries_of_a_bundle(line: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(told(monkeypatch, line.replace(" B", f" {bundle}")), bundle)


def leaves(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from leaves(below, *path, name)


@pytest.mark.parametrize("package", sorted(PACKAGES.values()))
def test_help_fits_80_characters(package: str) -> None:
    main = importlib.import_module(f"rrise.{package}.cli").main
    for path in leaves(main):
        text = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*path, "--help"]).output
        assert not [line for line in text.splitlines() if len(line) > 80], path


def test_long_values_stand_under_their_own_column() -> None:
    rows = [
        ("a", "one two three four five six seven eight"),
        ("table", "   0.1   0.2   0.3   0.4   0.5   0.6"),
    ]
    assert console.block(rows, 30) == [
        "  a      one two three four",
        "         five six seven eight",
        "  table     0.1   0.2   0.3   0.4   0.5   0.6",
    ]
    assert console.block(rows, None)[0] == "  a      one two three four five six seven eight"
    path = "/a/path/that/nobody/wants/to/have/in/two/pieces"
    assert any(path in line for line in console.block([("at", f"see {path}")], 40))


def test_values_begin_below_a_name_that_leaves_no_room() -> None:
    name = "a name of more than thirty letters, as some are"
    assert console.block([(name, "one two three four five six seven")], 50) == [
        f"  {name}",
        "    one two three four five six seven",
    ]


@pytest.mark.parametrize("columns", ["", "80"])
def test_lines_are_broken_for_a_terminal_only(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs read stays one line, unless COLUMNS asks."""
    value = "word " * 40
    group = click.Command("x", callback=lambda: console.summary("t", [("name", value)], {}, False), params=[])
    monkeypatch.delenv("COLUMNS", raising=False)
    result = CliRunner(env={"COLUMNS": columns} if columns else {}).invoke(group)
    assert len(result.output.splitlines()) == (4 if columns else 2)
