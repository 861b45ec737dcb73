"""The study on third-party counts: the parts are independent draws, and the calibrated maps come up to Monte Carlo."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rrise.calibration import CalibrationError
from rrise.calibration.storage.files import read_json

ROOT = Path(__file__).resolve().parents[2]
COUNTS = ROOT.parent / "shared" / "data" / "reference" / "cohen_resnet110_counts_sigma0.25.npz"
needs_counts = pytest.mark.skipif(not COUNTS.exists(), reason=f"third-party counts are not at {COUNTS}")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = ROOT / "examples" / "third_party_references.py"
    spec = importlib.util.spec_from_file_location("third_party_references", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _ratio(one: np.ndarray, draws: int, other: np.ndarray, further: int) -> float:
    """Mean square of the standardised difference of two shares: 1 for independent draws, less for shared ones."""
    p = (one + other) / (draws + further)
    some = (p > 0.2) & (p < 0.8)
    variance = p * (1 - p) * (1 / draws + 1 / further)
    return float(((one / draws - other / further) ** 2 / np.where(some, variance, 1))[some].mean())


@needs_counts
def test_the_three_parts_are_independent_draws(example: ModuleType) -> None:
    """About 5,500 images in the middle: the ratio is 1 within .1 (five deviations of a chi-square mean)."""
    parts = example.load_parts(COUNTS)
    for one, draws, other, further in (
        (parts.references, 10_000, parts.surrogate, 50_000),
        (parts.references, 10_000, parts.audit, 35_000),
        (parts.surrogate, 50_000, parts.audit, 35_000),
    ):
        assert (one.sum(axis=1) == draws).all() and (other.sum(axis=1) == further).all()
        assert _ratio(one, draws, other, further) == pytest.approx(1.0, abs=0.1)


@needs_counts
def test_the_published_budgets_are_not_prefixes_of_one_another() -> None:
    with np.load(COUNTS) as archive:
        total = {
            n: archive[f"test_sigma0.25_N{n}"].astype(np.int64)
            for n in (5000, 10_000, 25_000, 50_000, 100_000)
        }
    for small, large in ((5000, 10_000), (10_000, 25_000), (25_000, 50_000), (10_000, 50_000)):
        assert (total[large] < total[small]).any(axis=1).sum() > 500
    rest = total[100_000] - sum(total[n] for n in (5000, 10_000, 25_000, 50_000))
    assert (rest >= total[5000]).all() and (rest.sum(axis=1) == 10_000).all()
    assert _ratio(rest, 10_000, total[5000], 5000) == pytest.approx(
        1 / 3, abs=0.05
    )  # half of it is the same draws


@needs_counts
def test_one_map_for_all_radii_is_within_half_a_point_of_monte_carlo(example: ModuleType) -> None:
    """Ten splits of a perfect surrogate (the full study has 100), against Monte Carlo at Cohen's level .001."""
    result = example.study(example.load_parts(COUNTS), 0.0, 10)
    direct = result["issued"]["Monte Carlo, alpha 0.001"]
    assert all(ours > theirs - 0.005 for ours, theirs in zip(result["issued"]["quantile"], direct))
    assert result["issued"]["plain offset"][1] < direct[1] - 0.05
    assert max(result["largest_proved_wrong"].values()) <= 0.05


@needs_counts
def test_a_map_chosen_for_a_radius_wins_back_what_probit_noise_costs(example: ModuleType) -> None:
    result = example.study(example.load_parts(COUNTS), 0.3, 1, plan_splits=1)
    direct = result["issued"]["Monte Carlo, alpha 0.001"]
    for place, radius in enumerate(example.RADII):
        chosen = result["issued"][f"chosen for {radius:g}"][place]
        assert chosen > result["issued"]["plain offset"][place] + 0.05
        assert chosen > direct[place] - 0.06
    assert max(result["wrong_or_undecided"].values()) <= 0.06


@needs_counts
def test_the_command_writes_its_tables(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "RADII", (0.5,))
    monkeypatch.setattr(
        sys, "argv", ["example", str(COUNTS), "--splits", "1", "--out", str(tmp_path / "study.json")]
    )
    monkeypatch.setattr(example, "SETTINGS", ((0.0, False), (0.3, True)))
    example.main()
    value = read_json(tmp_path / "study.json", "study")
    assert [study["uneven"] for study in value["studies"]] == [False, True]
    assert "clopper-pearson + difficulty" in value["studies"][1]["issued"]
    assert "chosen for 0.5" in capsys.readouterr().out
    json.dumps(value, allow_nan=False)


def test_a_file_with_other_counts_is_refused(example: ModuleType, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        f"test_sigma0.25_N{n}": np.ones((4, 10), int) for n in (5000, 10_000, 25_000, 50_000, 100_000)
    }
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(CalibrationError, match="do not add up"):
        example.load_parts(tmp_path / "other.npz")
