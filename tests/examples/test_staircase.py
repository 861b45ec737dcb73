"""The example on staircases: its numbers are those of the kept scores, and net never exceeds gross."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import norm

from rrise.calibration import Guarantee, Scores, calibrate
from rrise.calibration.promise.maps import staircase_map
from rrise.calibration.promise.objective import Objective
from rrise.calibration.promise.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
SCORES = ROOT / "examples" / "reproduce" / "results" / "release-0.1" / "cifar10"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("staircase_example", ROOT / "examples" / "staircase.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_is_printed_and_its_rows_are_in_order(
    example: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--errors", "0.1", "--betas", "0.1", "--radii", "0.25,0.5", "--weights", "1,1"]
    monkeypatch.setattr(sys, "argv", ["staircase.py", str(SCORES), *options])
    example.main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert "pac, error 0.1" in lines[0]
    rows = {line[2:46].strip(): [float(value) for value in line[46:].split()] for line in lines[2:]}
    one, stairs = rows["one map, largest mean radius"], rows["one bundle for all radii, weights 1,1"]
    steps = rows["a bundle for 0.25 only"], rows["a bundle for 0.5 only"]
    for row in rows.values():
        assert row[2] <= row[0] and row[3] <= row[1] and 0 < row[4] <= 10  # PAC at eps .1, point estimate
    assert sum(stairs[:2]) > sum(one[:2]) + 10
    assert stairs[0] <= steps[0][0] and stairs[1] <= steps[1][1] and steps[0][1] == 0


def test_a_row_counts_what_it_says(example: ModuleType) -> None:
    tables = example.divided(SCORES, 0)
    calibration, test = tables["calibration"], tables["test"]
    stairs = staircase_map((0.25, 0.5), (0.29, 0.54))

    plan = Plan(Guarantee.of(), stairs, False, None, Objective.of((0.25, 0.5)), (0.25, 0.5), ())
    found = example.row(plan, calibration, test, [0.25, 0.5])
    head = calibrate(calibration, Guarantee.of(), stairs, difficulty=False).head
    radius = head.radius(test.probit, test.label)
    right = test.label == test.target
    assert found.gross == tuple(float((right & (radius >= r)).mean()) for r in (0.25, 0.5))
    share = test.label_counts() / test.num_samples
    wrong = (radius > 0) & (radius > test.sigma * norm.ppf(share))
    assert found.wrong == pytest.approx(wrong.mean()) and 0.01 < wrong.mean() < 0.06
    assert found.net[0] == pytest.approx((right & (radius > 0) & ~wrong).mean())


def test_splits_are_divided_anew_and_keep_their_sizes(example: ModuleType) -> None:
    first, second = example.divided(SCORES, 0), example.divided(SCORES, 1)
    for name in ("tuning", "calibration", "test"):
        assert isinstance(second[name], Scores) and len(first[name]) == len(second[name])
        assert second[name].split == name
    pool = np.concatenate([second["tuning"].digest, second["calibration"].digest])
    assert len(set(pool.tolist())) == len(pool)
    assert set(first["tuning"].digest.tolist()) != set(second["tuning"].digest.tolist())
