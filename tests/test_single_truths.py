"""What proofs rest on, and what several rooms state alike, stands once."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration.images.resizing import triangle_filter
from rrise.calibration.promise.guarded import GRID
from rrise.trainer.data import preprocess

ROOT = Path(__file__).resolve().parent.parent
HOMES = {
    "GRID": "calibration/promise/guarded.py",
    "OPSET": "calibration/storage/onnx_limits.py",
    "MAX_IR_VERSION": "calibration/storage/onnx_limits.py",
    "triangle_filter": "calibration/images/resizing.py",
    "RADII": "calibration/tables/evaluation.py",
    "LOSSES": "trainer/learning/losses.py",
    "CERTIFIED_FRAMES": "export/gating/gate_report.py",
}


@cache
def _defined(tree: ast.Module) -> set[str]:
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            names |= {
                name.id for part in node.targets for name in ast.walk(part) if isinstance(name, ast.Name)
            }
    return names


@cache
def _sources() -> dict[str, ast.Module]:
    found = {}
    for package in ("calibration", "edge_sdk", "export", "trainer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found[str(path.relative_to(ROOT))] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", sorted(HOMES))
def test_it_is_defined_in_one_module(name: str) -> None:
    assert [path for path, tree in _sources().items() if name in _defined(tree)] == [HOMES[name]]


def test_the_grid_is_written_as_a_number_nowhere_else() -> None:
    """1024.0 (as a float) is its number of steps; -10 as an exponent of 2 is the grid itself."""
    for path, tree in _sources().items():
        if path == HOMES["GRID"]:
            continue
        for node in ast.walk(tree):
            steps = isinstance(node, ast.Constant) and type(node.value) is float and node.value == 1024.0
            power = (
                isinstance(node, ast.BinOp)
                and isinstance(node.op, ast.Pow)
                and ast.unparse(node) in ("2 ** (-10)", "2 ** -10", "2.0 ** -10")
            )
            assert not steps and not power, f"{path}:{node.lineno}"  # type: ignore[attr-defined]
    assert preprocess.STEPS * GRID == 1.0


@pytest.mark.parametrize("sizes", [(32, 8), (8, 32), (30, 7), (7, 7)])
def test_the_filter_averages(sizes: tuple[int, int]) -> None:
    weights = triangle_filter(*sizes)
    assert weights.shape == (sizes[1], sizes[0])
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
