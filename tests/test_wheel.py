"""The installed distribution works outside the checkout, and its base install is light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.docs.test_tutorials import quicken

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("calibration", "edge_sdk", "export", "trainer")
TOPS = {"rrise", "edge_sdk"}


def build_wheel(source: Path, folder: Path) -> None:
    """Build the wheel of a source tree into a folder, with what is installed here."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, cwd=folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # Built from a copy, because a build leaves its own folders beside the sources.
    for package in (*PACKAGES, "src"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / package, source / package, ignore=ignored, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build_wheel(source, folder)
    return next(folder.glob("rrise-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked into an empty folder, which is what an installer does with a pure wheel."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(code: str, path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=path, env=environment
    ).stdout


def test_the_wheel_holds_one_root_and_the_name_that_robots_write(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == TOPS
    assert all(f"{top}/py.typed" in names for top in TOPS)
    held = {name for name in names if name.startswith("rrise/") and name.endswith(".py")}
    sources = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    own = {f"rrise/{path.name}" for path in (ROOT / "src" / "rrise").glob("*.py")}
    assert held == {f"rrise/{name}" for name in sources} | own
    assert [n for n in names if n.startswith("edge_sdk/")] == ["edge_sdk/__init__.py", "edge_sdk/py.typed"]


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=wheel.parent / "source", capture_output=True)
    archive = next(tmp_path.glob("rrise-*.tar.gz"))
    with tarfile.open(archive) as held:
        assert all(member.isfile() or member.isdir() for member in held), "links do not survive everywhere"
        held.extractall(tmp_path / "out", filter="data")
    source = tmp_path / "out" / archive.name.removesuffix(".tar.gz")
    build_wheel(source, tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("rrise-*.whl"))) as again, zipfile.ZipFile(wheel) as first:
        assert {i.filename: i.CRC for i in again.infolist() if ".dist-info/RECORD" not in i.filename} == {
            i.filename: i.CRC for i in first.infolist() if ".dist-info/RECORD" not in i.filename
        }


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_the_wheel(installed: Path, package: str) -> None:
    assert run(f"from rrise import {package}; print({package}.__file__)", installed).startswith(
        str(installed)
    )


def test_a_project_may_have_folders_of_the_same_names(installed: Path, tmp_path: Path) -> None:
    """A robot's own `calibration` (of its cameras), `trainer` and `export` stand before ours on the import path."""
    for name in ("calibration", "trainer", "export"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWNER = 'robot {name}'\n")
    code = (
        "import calibration, export, trainer\n"
        "from edge_sdk import Certifier\n"
        "import edge_sdk.certifier, rrise.edge_sdk.certifier, rrise.calibration.statistics.bounds\n"
        "assert edge_sdk.certifier is rrise.edge_sdk.certifier and Certifier is rrise.edge_sdk.certifier.Certifier\n"
        "print(calibration.OWNER, trainer.OWNER, export.OWNER, rrise.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(installed)])}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    expected = f"robot calibration robot trainer robot export {installed / 'rrise' / '__init__.py'}"
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    "command", ["rrise.calibration.cli", "rrise.edge_sdk.cli", "rrise.trainer.cli", "rrise.export.cli"]
)
def test_commands_start_from_the_wheel(installed: Path, command: str) -> None:
    help_text = run(f"import sys; from {command} import main; sys.argv[1:] = ['--help']; main()", installed)
    assert "Commands:" in help_text


def test_demo_starts_from_the_wheel(installed: Path) -> None:
    """It ends with the message of its first step, which runs in an interpreter of its own and finds the wheel too."""
    code = "from rrise.trainer.cli import main; main(['demo', 'w', '--data', 'nowhere'])"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=installed, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert "$ rrise-train init w --data nowhere" in done.stdout
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_the_whole_demo_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """From settings to certified pictures, without a checkout on the import path; with settings of a minute."""
    pytest.importorskip("sklearn")
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> str:
        line = [sys.executable, "-P", "-m", "rrise.trainer", *words]
        done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command("init", "demo", "--data", "digits", "--preset", "quick")
    quicken(tmp_path / "demo" / "rrise.toml")
    said = command("demo", "demo")
    for step in (
        "rrise-train run demo",
        "rrise-export onnx demo",
        "rrise-edge demo demo/bundle demo/pictures",
    ):
        assert f"$ {step}" in said
    assert "of 20" in said and "The loop is closed" in said
    assert len(list((tmp_path / "demo" / "pictures").glob("*.png"))) == 20
    assert "$ rrise-export onnx" not in command("demo", "demo"), "what is finished is kept"


def test_the_wheel_installs_the_four_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        lines = archive.read(name).decode().split()
    scripts = [
        "rrise-calibrate=rrise.calibration",
        "rrise-edge=rrise.edge_sdk",
        "rrise-export=rrise.export",
        "rrise-train=rrise.trainer",
    ]
    assert sorted("".join(lines[1:]).replace(".cli:main", " ").split()) == scripts


def test_the_base_install_needs_numpy_and_click_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(name).decode().splitlines()
    base = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in base) == ["click", "numpy"]
