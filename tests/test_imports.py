"""The import rules: which way imports point between packages and rooms, that none go round, and what a bare import may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "calibration": {"calibration"},
    "edge_sdk": {"edge_sdk", "calibration"},
    "trainer": {"trainer", "calibration"},
    "export": {"export", "calibration", "edge_sdk", "trainer"},
}
# The rooms of each package, from the ground upwards: a module imports from its own room and from those before it.
ROOMS = {
    "calibration": [
        "errors",
        "requirements",
        "console",
        "images",
        "recordings",
        "storage",
        "statistics",
        "tables",
        "promise",
        "reports",
        "commands",
        "cli",
    ],
    "edge_sdk": [
        "errors",
        "certificate",
        "formats",
        "runtime",
        "frames",
        "bundles",
        "device",
        "confirming",
        "certifying",
        "stream",
        "certifier",
        "auditing",
        "operate",
        "commands",
        "cli",
    ],
    "export": [
        "errors",
        "lowering",
        "gating",
        "base",
        "source",
        "releasing",
        "products",
        "pipeline",
        "on_device",
        "cli",
    ],
    "trainer": [
        "errors",
        "brought",
        "data",
        "montecarlo",
        "classifiers",
        "networks",
        "learning",
        "settings",
        "streams",
        "workspace",
        "counts",
        "base_classifier",
        "scores",
        "surrogates",
        "attacks",
        "reports",
        "commands",
        "cli",
    ],
}
MOST_FILES = 15
HEAVY = ("torch", "scipy", "onnx", "matplotlib", "onnxruntime", "zarr", "sklearn", "PIL", "pandas")


@cache
def modules() -> dict[str, Path]:
    """Every module of the four packages by its name below rrise."""
    found = {}
    for package in ALLOWED:
        for path in sorted((ROOT / package).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, *, lazy: bool, types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports below a node: with those inside functions if `lazy`, with those for type checkers if `types`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not lazy:
            continue
        if for_type_checkers(child) and not types:
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        yield from walk(child, lazy=lazy, types=types)


@cache
def imports(path: Path, lazy: bool = True, types: bool = True) -> frozenset[str]:
    """Full names of what a module imports."""
    names: set[str] = set()
    for node in walk(ast.parse(path.read_text(encoding="utf-8")), lazy=lazy, types=types):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.module and node.level == 0:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in below if name.removeprefix("rrise.") in modules()}
            names |= inside | ({node.module} if inside != below else set())
    return frozenset(names)


def own(names: frozenset[str]) -> set[str]:
    return {name.removeprefix("rrise.") for name in names if name.startswith("rrise.")} & set(modules())


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_downwards(package: str) -> None:
    for name, path in modules().items():
        if name.split(".")[0] == package:
            wrong = {other.split(".")[0] for other in own(imports(path))} - ALLOWED[package]
            assert not wrong, f"{name} imports {wrong}"


def test_inside_only_names_below_rrise_are_used() -> None:
    for name, path in modules().items():
        wrong = {other for other in imports(path) if other.split(".")[0] in ALLOWED}
        assert not wrong, f"{name} imports {wrong}, expected the same below rrise"


def floor(package: str, name: str) -> int:
    parts = name.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return len(ROOMS[package])
    assert parts[1] in ROOMS[package], f"{name} lies in no room of {ROOMS[package]}"
    return ROOMS[package].index(parts[1])


@pytest.mark.parametrize("package", sorted(ROOMS))
def test_rooms_import_only_downwards(package: str) -> None:
    """But for annotations, and for `Certifier.stream`, which opens the room above it when it is called."""
    for name, path in modules().items():
        if name.split(".")[0] != package:
            continue
        for other in own(imports(path, types=False)):
            if other.split(".")[0] == package:
                assert floor(package, other) <= floor(package, name), f"{name} imports {other}"


def test_no_imports_go_round() -> None:
    """No module needs itself to be loaded; annotations and imports inside functions aside."""
    graph = {name: own(imports(path, lazy=False, types=False)) - {name} for name, path in modules().items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


@pytest.mark.parametrize("package", sorted(ROOMS))
def test_no_folder_holds_more_files_than_a_person_looks_through(package: str) -> None:
    for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder.relative_to(ROOT)}: {len(files)} files"


@pytest.mark.parametrize("package", ["rrise.calibration", "rrise.edge_sdk", "edge_sdk"])
def test_light_packages_need_numpy_only_at_import(package: str) -> None:
    code = f"import sys, {package}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "module", ["rrise.edge_sdk.certifier", "rrise.edge_sdk.cli", "rrise.calibration.cli", "rrise.export.cli"]
)
def test_commands_start_without_the_heavy_libraries(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_calibration_loads_scipy_and_matplotlib_in_named_modules_only() -> None:
    homes: dict[str, set[str]] = {"scipy": set(), "matplotlib": set()}
    for name, path in modules().items():
        if name.startswith("calibration."):
            for library in {other.split(".")[0] for other in imports(path)} & set(homes):
                homes[library].add(name)
    assert homes["matplotlib"] == {"calibration.reports.plots"}
    assert not homes["scipy"] & {"calibration.promise.head", "calibration.promise.fit"}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_modules_start_with_their_purpose(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.relative_to(ROOT)


@pytest.mark.parametrize("package", ["calibration", "edge_sdk", "trainer"])
def test_every_public_name_is_there_and_loaded_late(package: str) -> None:
    code = (
        f"import sys; from rrise import {package} as p; before = set(sys.modules); "
        f"assert not any(m.startswith('rrise.{package}.') for m in before), before; "
        "assert all(getattr(p, n) is not None for n in p.__all__) and set(dir(p)) == set(p.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["calibration", "edge_sdk", "trainer"])
def test_the_table_of_late_names_is_what_type_checkers_see(package: str) -> None:
    """The same names from the same modules, in the block for type checkers and in the table used at run time."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if for_type_checkers(node))
    table = next(
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES"
    )
    seen = {
        alias.name: node.module
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"rrise.{package}.{home}" for name, home in ast.literal_eval(table.value).items()}
    # A list that is computed says nothing to a type checker: `from edge_sdk import Certifier` would be an error there.
    named = next(
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert sorted(ast.literal_eval(named.value)) == sorted(seen)
