"""The example on copies: one table and one file from a finished workspace, which stays as it is."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_the_curve_of_a_workspace(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("copies_curve", ROOT / "examples" / "copies_curve.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, example)
    spec.loader.exec_module(example)
    options = ["--copies", "0,2", "--radii", "0.1", "--errors", "0.1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["copies_curve.py", str(workspace), *options])
    before = contents(workspace)
    example.main()
    assert contents(workspace) == before
    points = json.loads((tmp_path / "curve.json").read_text())
    assert [point["passes"] for point in points] == [1, 3, 200, 300]  # CERTIFY: N0 = 100, and N = 100 or 200
    for point in points:
        assert 0 <= point["net"]["value"] <= point["gross"]["value"] <= 1 and point["milliseconds"] > 0
    assert points[1]["probit_rmse"] < points[0]["probit_rmse"]
    largest = points[-1]
    assert largest["behind"]["value"] == 0
    for point in points:
        assert point["behind"]["value"] == pytest.approx(largest["net"]["value"] - point["net"]["value"])
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out and "| k = 2 | 3 |" in text
