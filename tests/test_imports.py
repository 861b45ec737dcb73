"""The import rules between packages: which way imports point, and what a bare import may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "calibration": {"calibration"},
    "edge_sdk": {"edge_sdk", "calibration"},
    "trainer": {"trainer", "calibration"},
    "export": {"export", "calibration", "edge_sdk", "trainer"},
}
HEAVY = ("torch", "scipy", "onnx", "matplotlib", "onnxruntime", "zarr", "sklearn", "PIL", "pandas")


def imported_modules(path: Path) -> set[str]:
    """Top-level names that a module imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_downwards(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    for path in modules:
        wrong = (imported_modules(path) & set(ALLOWED)) - ALLOWED[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("package", ["calibration", "edge_sdk"])
def test_light_packages_need_numpy_only_at_import(package: str) -> None:
    code = f"import sys, {package}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "module", ["rrise.edge_sdk.certifier", "rrise.edge_sdk.cli", "rrise.calibration.cli", "rrise.export.cli"]
)
def test_commands_start_without_the_heavy_libraries(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_calibration_loads_scipy_and_matplotlib_in_named_modules_only() -> None:
    homes: dict[str, set[str]] = {"scipy": set(), "matplotlib": set()}
    for path in (ROOT / "calibration").glob("*.py"):
        for library in imported_modules(path) & set(homes):
            homes[library].add(path.name)
    assert homes["matplotlib"] == {"plots.py"}
    assert "head.py" not in homes["scipy"] and "fit.py" not in homes["scipy"]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_modules_start_with_their_purpose(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.relative_to(ROOT)


@pytest.mark.parametrize("package", ["calibration", "edge_sdk"])
def test_every_public_name_is_there_and_loaded_late(package: str) -> None:
    code = (
        f"import sys, {package} as p; before = set(sys.modules); "
        f"assert not any(m.startswith('{package}.') for m in before), before; "
        "assert all(getattr(p, n) is not None for n in p.__all__) and set(dir(p)) == set(p.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
