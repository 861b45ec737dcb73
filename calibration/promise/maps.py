"""Monotone maps from the plug-in radius to the raw radius, stored as piecewise-linear tables.

Statements: calibration/README.md, "Maps: where the error level is spent".

The Monte Carlo reference saturates at sigma Phi^-1(beta^(1/N)), and below that it lies under the plug-in radius by
an amount that depends on p. A single offset must cover the largest of those gaps; a map that follows the curve of
the reference leaves the offset only the surrogate's own error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError


@dataclass(frozen=True)
class RadiusMap:
    """A continuous, non-decreasing, piecewise-linear function on radii, constant beyond its ends.

    Attributes:
        name: "identity", "clopper-pearson", "quantile", ...
        x: knots, plug-in radius in [0, 1] pixel units, strictly increasing as float32; empty is the identity.
        y: values at the knots, raw radius in the same units, non-decreasing and finite.
        radii: of a staircase: the only radii that are issued, same units, > 0, increasing, rounded up to float32. Empty:
            every radius is issued as it comes.
        thresholds: of a staircase: what the raw radius less its margin must reach for each of `radii`, float32, finite,
            non-decreasing. A *step* is a staircase of one whose threshold is its radius.
    """

    name: str
    x: Tuple[float, ...]
    y: Tuple[float, ...]
    radii: Tuple[float, ...] = ()
    thresholds: Tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.radii or self.thresholds:
            self._check_stairs()
        with np.errstate(over="ignore"):
            knots, values = np.array(self.x, np.float32), np.array(self.y, np.float32)
        if len(knots) == len(values) == 0:
            return
        if len(knots) != len(values) or len(knots) < 2 or not np.isfinite([*knots, *values]).all():
            raise CalibrationError(
                f"map {self.name}: got {len(knots)} knots and {len(values)} values, expected equally many, at least 2, all finite"
            )
        if (np.diff(knots) <= 0).any() or (np.diff(values) < 0).any():
            raise CalibrationError(
                f"map {self.name}: knots must increase (as float32) and values must not decrease"
            )
        object.__setattr__(self, "x", tuple(float(knot) for knot in knots))
        object.__setattr__(self, "y", tuple(float(value) for value in values))

    def _check_stairs(self) -> None:
        radii = tuple(least_float32(radius) for radius in self.radii)
        with np.errstate(over="ignore"):
            thresholds = np.array(self.thresholds, np.float32)
        if len(radii) != len(thresholds) or not np.isfinite(thresholds).all():
            raise CalibrationError(
                f"map {self.name}: got {len(radii)} radii and thresholds {self.thresholds}, expected one finite threshold for "
                "each radius"
            )
        if (np.diff(radii) <= 0).any() or (np.diff(thresholds) < 0).any():
            raise CalibrationError(
                f"map {self.name}: got radii {self.radii} with thresholds {self.thresholds}; radii must increase (as float32) "
                "and thresholds must not decrease"
            )
        object.__setattr__(self, "radii", radii)
        object.__setattr__(self, "thresholds", tuple(float(threshold) for threshold in thresholds))

    @property
    def is_identity(self) -> bool:
        return not self.x

    @property
    def is_step(self) -> bool:
        """Whether it is a staircase of one whose threshold is its radius, which needs no tuning frame."""
        return len(self.radii) == 1 and self.radii == self.thresholds

    def issue(self, reach: np.ndarray) -> np.ndarray:
        """What is issued where the raw radius less its margin is `reach`, float32 [n].

        That is the largest radius whose threshold it reaches, or 0; without a staircase what is above 0. NaN gives 0.
        The result never falls with `reach`. The exported graph takes the same comparisons.
        """
        reach = np.asarray(reach, np.float32)
        if not self.radii:
            return np.where(reach > 0, reach, np.float32(0))
        passed = reach[:, None] >= np.array(self.thresholds, np.float32)
        return np.asarray(np.where(passed, np.array(self.radii, np.float32), np.float32(0)).max(axis=1))

    @property
    def slope(self) -> np.ndarray:
        """Slope of each segment, float32 [len(x) - 1]."""
        steps = np.diff(np.array(self.y, np.float64)) / np.diff(np.array(self.x, np.float64))
        return steps.astype(np.float32)

    def __call__(self, plugin: np.ndarray) -> np.ndarray:
        """Raw radius float32 [n] of the plug-in radius float32 [n]; NaN stays NaN.

        Every step is one float32 operation, the same that the exported graph takes.
        """
        plugin = np.asarray(plugin, np.float32)
        if self.is_identity:
            return plugin
        x, y = np.array(self.x, np.float32), np.array(self.y, np.float32)
        inside = np.clip(plugin, x[0], x[-1])
        segment = np.sum(inside[:, None] >= x[1:-1], axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(y[segment] + self.slope[segment] * (inside - x[segment]), np.float32)

    def describe(self) -> str:
        """Its name, and the radii that alone are issued where it is a staircase."""
        if not self.radii:
            return self.name
        if self.is_step:
            return f"{self.name} (issues {self.radii[0]:g} only)"
        stairs = ", ".join(
            f"{radius:g} from {threshold:.4g}" for radius, threshold in zip(self.radii, self.thresholds)
        )
        return f"{self.name} (issues {stairs})"

    def to_json(self) -> Dict[str, Any]:
        """A step is stored as it was before there were staircases, so that older records keep their digests."""
        stairs: Dict[str, Any] = {}
        if self.is_step:
            stairs = {"step": self.radii[0]}
        elif self.radii:
            stairs = {"radii": list(self.radii), "thresholds": list(self.thresholds)}
        return {"name": self.name, "x": list(self.x), "y": list(self.y), **stairs}

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "RadiusMap":
        radii, thresholds = value.get("radii", ()), value.get("thresholds", ())
        if value.get("step") is not None:
            radii = thresholds = (float(value["step"]),)
        return cls(
            str(value["name"]),
            tuple(value["x"]),
            tuple(value["y"]),
            tuple(float(radius) for radius in radii),
            tuple(float(threshold) for threshold in thresholds),
        )


def least_float32(radius: float) -> float:
    """The least float32 that is not below `radius`, so that a certificate of it answers a request for `radius`.

    Raises:
        CalibrationError: a radius that is not positive and finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.float32(radius)
    if float(found) < radius:
        found = np.nextafter(found, np.float32(np.inf))
    if not (np.isfinite(found) and radius > 0):
        raise CalibrationError(f"step: got radius {radius}, expected a positive radius in [0, 1] pixel units")
    return float(found)


IDENTITY = RadiusMap("identity", (), ())
"""The map of the paper: the raw radius is the plug-in radius."""


def step_map(radius: float) -> RadiusMap:
    """Issue `radius` where the plug-in radius less the offset reaches it, and nothing else.

    A certificate of radius r is wrong only where the true radius is below r, so the whole error level is spent there, and r
    is issued on as many frames as the level permits: those with the largest plug-in radii, or where a difficulty scales the
    offset, with the largest (plug-in radius - r) / difficulty. No frame is issued a smaller or a larger radius.

    Raises:
        CalibrationError: a radius that is not positive and finite.
    """
    radius = least_float32(radius)
    return RadiusMap(f"step {radius:g}", (), (), (radius,), (radius,))


def staircase_map(radii: Sequence[float], thresholds: Sequence[float]) -> RadiusMap:
    """Issue the largest of `radii` whose threshold the plug-in radius less the margin reaches, and nothing else.

    Args:
        radii: increasing, > 0, [0, 1] pixel units.
        thresholds: one for each, non-decreasing, in the same units; `promise.staircase` chooses them on tuning
            frames.

    Raises:
        CalibrationError: radii or thresholds that make no staircase.

    **Guarantee**: none by itself; the offset makes it (calibration/README.md, "Maps").
    """
    return RadiusMap("staircase", (), (), tuple(radii), tuple(thresholds))


def clopper_pearson_map(sigma: float, num_samples: int, beta: float, num_knots: int = 64) -> RadiusMap:
    """The curve along which the reference radius follows p when n_c = p N, so that it saturates where they do.

    Args:
        sigma: noise standard deviation, [0, 1] pixel units.
        num_samples: N of the calibration references.
        beta: miss probability of each Clopper-Pearson bound.
        num_knots: knots, spread evenly in the reference's own probit.

    A choice of the map never touches soundness: the offset is calibrated on whatever the map gives.

    Raises:
        CalibrationError: an argument that describes no Monte Carlo.
    """
    if not (sigma > 0 and num_samples >= 1 and 0 < beta < 1 and num_knots >= 2):
        raise CalibrationError(
            f"clopper_pearson_map: got sigma {sigma}, num_samples {num_samples}, beta {beta}, {num_knots} knots; expected "
            "sigma > 0, num_samples >= 1, beta in (0, 1), at least 2 knots"
        )
    from scipy.special import betaincinv, ndtr, ndtri

    # Counts as real numbers: the bound is continuous in n_c, also between integers. The last knot lies so near to
    # n_c = N that the map ends at the height where the references saturate.
    ceiling = beta ** (1.0 / num_samples)
    probits = np.linspace(-0.5, float(ndtri(1.0 - 0.02 / num_samples)), num_knots)
    counts = np.minimum(ndtr(probits) * num_samples, float(num_samples))
    below = counts < num_samples
    lower = np.full(num_knots, ceiling)
    lower[below] = betaincinv(counts[below], num_samples - counts[below] + 1.0, beta)
    values = np.maximum.accumulate(sigma * ndtri(np.minimum(lower, ceiling)))
    return RadiusMap("clopper-pearson", tuple(sigma * probits), tuple(values))
