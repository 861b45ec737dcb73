"""The focused map: more certificates at its radius than any other map, near the best that a single threshold can do."""

import numpy as np
import pytest

from calibration import CalibrationError, Guarantee, RadiusMap, calibrate, clopper_pearson_map
from calibration.crossfit import signed_reference
from calibration.focus import focus_map
from calibration.offsets import label_reference
from tests.calibration.helpers import SIGMA, draw_scores

GUARANTEE = Guarantee.of()
TUNING = draw_scores(0, 1000, 10_000, noise=0.4, split="tuning", start=100_000)
CALIBRATION = draw_scores(1, 2000, 10_000, noise=0.4)
TEST = draw_scores(2, 10_000, 10_000, noise=0.4, split="test", start=50_000)


def _focused(radius: float) -> RadiusMap:
    plugin = np.float32(SIGMA) * TUNING.probit
    return focus_map(plugin, signed_reference(TUNING, GUARANTEE), radius, 0.037, num_calibration=2000)


def _issued(curve: RadiusMap, radius: float) -> float:
    record = calibrate(CALIBRATION, GUARANTEE, curve)
    return float(np.mean(record.head.radius(TEST.probit, TEST.label) >= radius))


@pytest.mark.parametrize("radius", [0.15, 0.3, 0.45])
def test_it_beats_the_other_maps_at_its_radius_and_comes_near_the_best(radius: float) -> None:
    focused = _issued(_focused(radius), radius)
    plain = _issued(clopper_pearson_map(SIGMA, 10_000, 0.1), radius)
    # The best that any monotone rule could do with this many errors, knowing the test frames.
    order = np.argsort(-TEST.probit)
    errors = np.cumsum(label_reference(TEST, 0.1)[order] < radius)
    best = float((errors <= 0.045 * len(TEST)).sum()) / len(TEST)
    assert focused > plain + 0.02
    assert best - 0.12 < focused <= best + 0.01


def test_it_is_monotone_and_continuous_enough() -> None:
    curve = _focused(0.3)
    grid = np.linspace(-0.5, 1.5, 4001, dtype=np.float32)
    values = curve(grid)
    assert (np.diff(values) >= -1e-6).all() and curve.name == "focus 0.3"


def test_when_nothing_can_be_lifted_the_base_map_remains() -> None:
    curve = focus_map(np.float32(SIGMA) * TUNING.probit, np.zeros(1000), 0.3, 0.0001, num_calibration=2000)
    assert curve.name == "quantile"


@pytest.mark.parametrize("radius", [0.0, -0.1, float("nan")])
def test_a_radius_must_be_positive(radius: float) -> None:
    with pytest.raises(CalibrationError, match="expected a positive radius"):
        _focused(radius)
