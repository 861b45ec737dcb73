"""The README: short, narrow, its Python runs as it stands, and everything that a newcomer looks for is linked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.test_pages import LINK, ROOT
from tests.docs.test_tutorials import run

README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_LINES, MOST_CHARACTERS = 120, 100
MEASUREMENTS = (ROOT / "docs" / "pages" / "measurements.md").read_text(encoding="utf-8")


def test_it_is_short_and_narrow() -> None:
    lines = README.splitlines()
    assert len(lines) <= MOST_LINES
    assert not [line for line in lines if len(line) > MOST_CHARACTERS]


def test_its_make_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake (\w+)", README))
    assert {"demo", "test"} <= targets
    assert not {name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)}


def test_its_camera_loop_runs(
    bundle: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    import shutil

    from rrise.trainer.commands.demo import save_pictures

    shutil.copytree(bundle, tmp_path / "demo" / "bundle")
    for name in ("rrise.toml", "splits.npz"):
        shutil.copy(workspace / name, tmp_path / "demo")
    save_pictures(tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    program = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[0]
    assert program.count("\n") <= 10
    exec(compile(program, "README.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()  # type: ignore[attr-defined]
    assert len(said) == 20
    assert sum(line.startswith("no certificate:") for line in said) < 20, "not one frame was certified"
    run("rrise-edge demo demo/bundle demo/pictures", tmp_path)


def numbers(row: str) -> list[float]:
    return [float(found) for found in re.findall(r"(\d+\.\d+) %", row)]


def test_its_numbers_stand_in_the_measurements() -> None:
    """Each percentage of the table is found among the measurements, where the command that prints it stands."""
    table = README.split("FIVE-NUMBERS")[1].split("\n\n")[1]
    rows = table.splitlines()[2:]
    assert len(rows) == 5
    known = set(map(float, re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", MEASUREMENTS)))
    shares = {100 * float(found) for found in re.findall(r"(?<![\d])\.\d+", MEASUREMENTS)}
    known |= {round(share, 6) for share in shares}
    for row in rows:
        assert all(number in known for number in numbers(row)), row
    assert "eps" in table and "net" in table and "instead" in table
    assert f"{rows[-1].split()[-2]}x" in MEASUREMENTS


def test_nothing_that_a_newcomer_looks_for_is_missing() -> None:
    linked = set(LINK.findall(README))
    for name in ("LICENSE", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        assert name in linked
    assert {f"docs/pages/tutorials/{name}.md" for name in ("images", "classifier", "robot")} <= linked
    assert "Nothing has run on a GPU" in README


def test_every_example_has_a_line_in_the_table_of_examples() -> None:
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    linked = {target.rstrip("/") for target in LINK.findall(table)}
    there = {
        path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".cjs") or path.is_dir()
    }
    assert there - {"__pycache__", "__init__.py"} <= linked


def test_extras_are_those_of_pyproject() -> None:
    tomllib = pytest.importorskip("tomllib")
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "pages" / "how-to" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE)
    shown = {name: installs.strip().replace("rrise[", "rrise<").split(", ") for name, installs in rows}
    wanted = {
        name: [re.split(r"[>=;\s]", item.replace("rrise[", "rrise<"))[0] for item in items]
        for name, items in asked["optional-dependencies"].items()
    }
    assert list(shown) == list(wanted), "one row for each extra, in the order of pyproject.toml"
    for name, items in shown.items():
        if items != ["see pyproject.toml"]:
            assert items == wanted[name], name
