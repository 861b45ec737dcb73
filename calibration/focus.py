"""The focused map: spends the error level at the one radius that the user needs, where it buys the most certificates.

A certificate at radius r costs error only on frames whose reference lies below r. A map that lifts every frame beyond
some plug-in radius to r, and elsewhere stays so low that it hardly errs, therefore issues radius r on as many frames
as the level permits at all; the price is paid at other radii. Like every map it is fitted on the tuning split only.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from calibration.errors import CalibrationError
from calibration.maps import RadiusMap
from calibration.quantile import quantile_map

RISE = 0.1
"""Slope of the map beyond the lifted start: frames there have references to spare, and a slightly larger offset than
foreseen then loses few frames instead of all."""

FALL = 4.0
"""Slope of the map just before the start: finite, so that the map stays a continuous function."""


def focus_map(
    plugin: np.ndarray,
    reference: np.ndarray,
    radius: float,
    alpha: float,
    *,
    base_level: float = 0.01,
    lift: float = 0.5,
    num_calibration: int = 0,
) -> RadiusMap:
    """Fit the map that issues `radius` on as many frames as a share `alpha` of errors allows.

    Args:
        plugin: float32 [n], plug-in radii of the tuning frames.
        reference: float [n], their signed lower radii.
        radius: to be optimised, [0, 1] pixel units, > 0.
        alpha: share of frames that may exceed their reference.
        base_level: quantile level of the map elsewhere; larger gives more at other radii and less at this one.
        lift: how far above the radius the line starts, in standard deviations of the offset to come: less wins more
            where the offset turns out as foreseen, more is safer where it does not.
        num_calibration: frames of the calibration split to come; 0: as many as here.

    Returns:
        The larger of the base map and a line that starts at `radius`; the base map alone where nothing can be lifted.

    Raises:
        CalibrationError: a radius that is not positive, or too few frames.
    """
    if not radius > 0:
        raise CalibrationError(f"focused map: got radius {radius}, expected a positive radius")
    base = quantile_map(plugin, reference, base_level)
    x, known = np.asarray(plugin, np.float64), np.maximum(np.asarray(reference, np.float64), 0.0)
    start = _least_start(x, known, base, radius, alpha)
    if start is None:
        return base
    margin = lift * _deviation(known[x >= start], radius, len(x), alpha, num_calibration or len(x))
    margin = min(margin, 0.2 * radius)
    start = _least_start(x, known, base, radius + margin, alpha)
    return base if start is None else _with_ramp(base, start, radius, margin)


def _least_start(
    plugin: np.ndarray, reference: np.ndarray, base: RadiusMap, height: float, alpha: float
) -> Optional[float]:
    """Least plug-in radius from which the line can start with a share alpha of errors in all, by bisection."""
    low = np.maximum(base(plugin), 0.0)
    starts = np.unique(plugin)

    def fits(start: float) -> bool:
        lifted = np.where(plugin >= start, np.maximum(low, height + RISE * (plugin - start)), low)
        return bool(np.mean(reference < lifted) <= alpha)

    if not fits(starts[-1]):
        return None
    first, last = 0, len(starts) - 1
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if fits(starts[middle]) else (middle + 1, last)
    return float(starts[last])


def _deviation(
    reference: np.ndarray, radius: float, num_frames: int, alpha: float, num_calibration: int
) -> float:
    """Standard deviation of the offset to come: of the share of errors, over the density of references at the radius."""
    window = 0.1 * radius
    density = np.mean(np.abs(reference - radius) < window) * len(reference) / num_frames / (2 * window)
    return float(np.sqrt(alpha * (1 / num_frames + 1 / num_calibration)) / max(density, 1e-9))


def _with_ramp(base: RadiusMap, start: float, radius: float, margin: float) -> RadiusMap:
    """The larger of `base` and the line from (start, radius + margin) on, with a steep rise just before it."""
    height = radius + margin
    foot = start - max(0.02 * radius, margin) / FALL
    x = np.unique(np.concatenate([np.array(base.x), [foot, start]]).astype(np.float32))
    y = np.interp(x, base.x, base.y)
    y = np.where(
        x >= np.float32(start), np.maximum(y, height + RISE * (x - start)), np.minimum(y, radius - margin)
    )
    clear = np.append(True, np.diff(x) > 1e-5 * (x[-1] - x[0])) | (x == np.float32(start))
    return RadiusMap(f"focus {radius:g}", tuple(x[clear]), tuple(np.maximum.accumulate(y[clear])))
