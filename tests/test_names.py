"""Older names: `edge_sdk`, the modules of 0.1, and the folders of a checkout give the very modules below rrise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrise.names import MOVED, ROOTS, present_name

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, *path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_moved_module_is_where_the_table_says() -> None:
    for old, new in MOVED.items():
        assert not (ROOT / old.replace(".", "/")).with_suffix(".py").exists(), f"{old} did not move"
        assert (ROOT / new.replace(".", "/")).with_suffix(".py").exists(), f"{new} is not there"


def test_present_names() -> None:
    assert present_name("edge_sdk") == "rrise.edge_sdk"
    assert present_name("edge_sdk.images") == "rrise.edge_sdk.frames.images"
    assert present_name("edge_sdk.stream.ros") == "rrise.edge_sdk.stream.ros"


@pytest.mark.parametrize("path", [(ROOT / "src",), (ROOT, ROOT / "src")], ids=["installed", "checkout"])
def test_one_module_object_whichever_name_it_is_imported_by(path: tuple[Path, ...]) -> None:
    pairs = [
        ("edge_sdk", "rrise.edge_sdk"),
        ("edge_sdk.certifier", "rrise.edge_sdk.certifier"),
        ("edge_sdk.images", "rrise.edge_sdk.frames.images"),
        ("edge_sdk.stream.checks", "rrise.edge_sdk.stream.checks"),
    ]
    if len(path) > 1:
        pairs += [("calibration.bounds", "rrise.calibration.statistics.bounds"), ("trainer", "rrise.trainer")]
    for first in (0, 1):
        code = "from importlib import import_module as load\n" + "\n".join(
            f"assert load({pair[first]!r}) is load({pair[1 - first]!r})\n"
            f"assert load({pair[1]!r}).__spec__.name == {pair[1]!r}"
            for pair in pairs
        )
        run(code, *path)


def test_a_missing_submodule_is_named() -> None:
    code = "import edge_sdk\ntry:\n    import edge_sdk.nothing\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert "edge_sdk.nothing" in run(code, ROOT / "src")


@pytest.mark.parametrize(
    "name",
    [
        *(f"rrise.{root}" for root in ROOTS),
        # The same code; test_wheel.py starts them as installed.
        *(pytest.param(f"rrise.{root}.cli", marks=pytest.mark.long) for root in ROOTS),
    ],
)
def test_python_dash_m_runs_the_command(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", name, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "Commands:" in done.stdout


@pytest.mark.parametrize("name", ["edge_sdk", "edge_sdk.cli"])
def test_python_dash_m_with_the_name_that_robots_write(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", name, "verify", "/nowhere", "--references", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "/nowhere" in done.stderr
