"""The lower-quantile map: monotone, at its level, and equal to statsmodels' quantile regression where that is linear."""

import numpy as np
import pytest
import statsmodels.api as sm

from rrise.calibration import CalibrationError
from rrise.calibration.promise.quantile import quantile_map


def _frames(seed: int, num_frames: int, spread: float = 0.1) -> "tuple[np.ndarray, np.ndarray]":
    rng = np.random.default_rng(seed)
    plugin = rng.uniform(-0.2, 1.0, num_frames).astype(np.float32)
    return plugin, np.minimum(plugin, 0.7) - spread * rng.exponential(1.0, num_frames)


@pytest.mark.parametrize("level", [0.02, 0.05, 0.2])
def test_a_share_level_of_the_references_lies_below(level: float) -> None:
    plugin, reference = _frames(0, 2000)
    curve = quantile_map(plugin, reference, level)
    assert (
        reference < curve(plugin) - 1e-6
    ).mean() <= level + 1e-9  # the law of the optimum of the pinball loss
    assert (reference < curve(plugin) + 1e-6).mean() >= level - 1e-9
    assert (np.diff(curve.y) >= 0).all()
    fresh, truth = _frames(1, 20_000)
    assert (truth < curve(fresh)).mean() == pytest.approx(level, abs=0.025)


def test_two_knots_are_linear_quantile_regression() -> None:
    plugin, reference = _frames(2, 300)
    curve = quantile_map(plugin, reference, 0.1, num_knots=2)
    theirs = sm.QuantReg(reference, sm.add_constant(plugin.astype(np.float64))).fit(q=0.1)
    assert curve(plugin) == pytest.approx(
        theirs.predict(sm.add_constant(plugin.astype(np.float64))), abs=2e-3
    )


def test_no_other_monotone_map_on_these_knots_has_less_loss() -> None:
    """The dual solution against the primal program, and against 200 random neighbours."""
    plugin, reference = _frames(5, 400)
    level = 0.05
    curve = quantile_map(plugin, reference, level)

    def loss(values: np.ndarray) -> float:
        rest = reference - np.interp(plugin, curve.x, values)
        return float(np.where(rest > 0, level * rest, (level - 1) * rest).sum())

    best, rng = loss(np.array(curve.y)), np.random.default_rng(0)
    for scale in np.repeat([1e-4, 1e-3, 1e-2, 1e-1], 50):
        other = np.maximum.accumulate(np.array(curve.y) + scale * rng.normal(size=len(curve.y)))
        assert loss(other) >= best - 1e-5


def test_a_falling_cloud_gives_a_flat_map() -> None:
    plugin, _ = _frames(3, 200)
    curve = quantile_map(plugin, -plugin.astype(np.float64), 0.1)
    assert np.ptp(curve.y) == pytest.approx(0.0, abs=1e-6)


def test_references_of_minus_infinity_and_ties_are_harmless() -> None:
    plugin, reference = _frames(4, 200)
    reference[:5] = -np.inf
    plugin[50:] = np.float32(0.5)
    curve = quantile_map(plugin, reference, 0.05)
    assert np.isfinite(curve.y).all() and np.isfinite(curve(plugin)).all()


@pytest.mark.parametrize(("num_frames", "level"), [(19, 0.1), (100, 0.0), (100, 1.0), (100, float("nan"))])
def test_impossible_requests_are_refused(num_frames: int, level: float) -> None:
    plugin, reference = _frames(0, num_frames)
    with pytest.raises(CalibrationError, match="expected at least 20 frames and a level"):
        quantile_map(plugin, reference, level)


def test_one_plug_in_radius_gives_no_curve() -> None:
    with pytest.raises(CalibrationError, match="all plug-in radii are equal"):
        quantile_map(np.full(50, 0.3, np.float32), np.zeros(50), 0.1)
