"""The monotone lower-quantile map: under which radius do only a few references lie, given the plug-in radius?

Fitted on the tuning split only, as a linear program: among all non-decreasing piecewise-linear functions on given knots
the one with the least quantile (pinball) loss. Source: Koenker and Bassett 1978, "Regression quantiles".
"""

from __future__ import annotations

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.maps import RadiusMap

FRAMES_PER_KNOT = 25
MAX_KNOTS = 32


def quantile_map(
    plugin: np.ndarray, reference: np.ndarray, level: float, name: str = "quantile", num_knots: int = 0
) -> RadiusMap:
    """Fit the map whose value is exceeded from above by a share `level` of the references.

    Args:
        plugin: float32 [n], plug-in radii sigma * probit of the tuning frames.
        reference: float [n], signed lower radii of the same frames (see `bounds.lower_radius`); -inf is allowed.
        level: quantile level, in (0, 1); small is cautious.
        num_knots: 0 chooses one for every 25 frames, between 4 and 32.

    Returns:
        A map with knots at quantiles of the plug-in radii.

    Raises:
        CalibrationError: fewer than 20 frames, level outside (0, 1), or all plug-in radii equal.
    """
    from scipy.optimize import linprog

    x = np.asarray(plugin, np.float64)
    if len(x) < 20 or len(x) != len(reference) or not 0 < level < 1:
        raise CalibrationError(
            f"quantile map: got {len(x)} frames and level {level}, expected at least 20 frames and a level in (0, 1)"
        )
    knots = _knots(x, num_knots or int(np.clip(len(x) // FRAMES_PER_KNOT, 4, MAX_KNOTS)))
    span = knots[-1] - knots[0]
    y = np.clip(np.asarray(reference, np.float64), knots[0] - span, None)
    basis = _basis(x, knots)
    # The dual program has one bounded unknown per frame and one row per knot, and is solved ten times faster. Its
    # multipliers are the first value (free: an equation) and the increments (>= 0: inequalities).
    solved = linprog(
        -y,
        A_eq=basis[:, :1].T,
        b_eq=[0.0],
        A_ub=basis[:, 1:].T,
        b_ub=np.zeros(len(knots) - 1),
        bounds=(level - 1.0, level),
        method="highs",
    )
    if not solved.success:
        raise CalibrationError(f"quantile map: the linear program was not solved ({solved.message})")
    steps = -np.concatenate([solved.eqlin.marginals, np.minimum(solved.ineqlin.marginals, 0.0)])
    values = np.cumsum(steps)
    return RadiusMap(name, tuple(knots), tuple(np.maximum.accumulate(values.astype(np.float32))))


def _knots(x: np.ndarray, count: int) -> np.ndarray:
    """At most `count` distinct knots at quantiles of x, clearly apart in float32."""
    candidates = np.quantile(x, np.linspace(0.0, 1.0, count))
    least = 1e-4 * (candidates[-1] - candidates[0])
    kept = [candidates[0]]
    for knot in candidates[1:]:
        if knot - kept[-1] > least:
            kept.append(knot)
    if len(kept) < 2:
        raise CalibrationError("quantile map: all plug-in radii are equal, so there is no curve to fit")
    return np.array(kept, np.float32).astype(np.float64)


def _basis(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Row i: how much of the first value (1) and of each increment a piecewise-linear function has reached at x[i]."""
    inside = np.clip(x, knots[0], knots[-1])[:, None]
    share = np.clip((inside - knots[:-1]) / np.diff(knots), 0.0, 1.0)
    return np.hstack([np.ones((len(x), 1)), share])
