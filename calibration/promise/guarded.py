"""The guarded tier: one pass on frame plus fresh noise, valid even where an attacker moved the frame by up to rho.

Statement and proof: calibration/README.md, "Guarded". Same lemma as robust conformal prediction with one sample (RCP1,
arXiv 2506.16553).
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any, Dict, Sequence

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import round_down

PIXEL_SCALE = 255
"""Noise is drawn in steps of 8-bit pixel values, to which it is added before they are scaled to [0, 1]."""

GRID = 2**-10
"""Noise values are multiples of this, so that their float32 sum with integer pixel values is exact."""

_LARGEST_SUM = 2.0**14  # 24 bits of a float32 mantissa, ten of them behind the point


@dataclass(frozen=True)
class Guard:
    """What the attacker may do and what noise is drawn against it.

    Attributes:
        rho: L2 distance by which the attacker may have moved the frame, in [0, 1] pixel units, measured in the tensor
            to which the noise is added (after decoding, quantisation and resizing).
        noise: s, standard deviation of the fresh noise of each frame, in the same units.
    """

    rho: float
    noise: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise CalibrationError(f"rho: got {self.rho}, expected a distance >= 0 in [0, 1] pixel units")
        if not (math.isfinite(self.noise) and self.noise > 0):
            raise CalibrationError(
                f"guard noise: got {self.noise}, expected a standard deviation > 0 in [0, 1] pixel units"
            )

    def level(self, error: Fraction) -> Fraction:
        """Phi(Phi^-1(error) - rho / s), rounded down to a rational of six digits.

        **Guarantee**: an event whose probability under X + e is at most this has probability at most `error` under
        x' + e for every x' within rho of X (Neyman-Pearson for the Gaussian shift).

        Raises:
            CalibrationError: rho / s so large that no level is left.
        """
        quantile = NormalDist().inv_cdf(float(error)) - self.rho / self.noise
        # Through erfc, since NormalDist.cdf loses all digits in the tail. The margin covers the rounding of quantile and
        # distribution, whose relative error is far below 1e-9.
        value = 0.5 * math.erfc(-quantile / math.sqrt(2.0)) * (1 - 1e-9)
        if value < 1e-15:
            raise CalibrationError(
                f"guard: rho / noise = {self.rho / self.noise:.3g} leaves no error level; expected a larger noise or a "
                "smaller rho"
            )
        digits = 6 - math.floor(math.log10(value))
        return Fraction(math.floor(value * 10**digits), 10**digits)

    def to_json(self) -> Dict[str, Any]:
        return {"rho": self.rho, "noise": self.noise}

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "Guard":
        return cls(rho=float(value["rho"]), noise=float(value["noise"]))


def guarded_reference(reference: np.ndarray, rho: float) -> np.ndarray:
    """max(R_low - rho, 0) as float32 rounded down: what the radius around the delivered frame may not exceed."""
    return round_down(np.maximum(np.asarray(reference, np.float64) - rho, 0.0))


class NoiseSource:
    """Fresh Gaussian noise on the exact grid, from a generator that is seeded by the operating system.

    Never seed it yourself in a product: a sender who knows the noise defeats the guarantee.
    """

    def __init__(self, noise: float, seed: "int | None" = None) -> None:
        """Draw noise of this size.

        Args:
            noise: s, standard deviation in [0, 1] pixel units.
            seed: for tests only; None draws 256 bits from the operating system.

        Raises:
            CalibrationError: s that is not positive, or so large that sums with pixel values would be rounded.
        """
        if not 0 < noise * PIXEL_SCALE * 10 + PIXEL_SCALE < _LARGEST_SUM or not noise > 0:
            raise CalibrationError(f"guard noise: got {noise}, expected a standard deviation between 0 and 6")
        self._scale = noise * PIXEL_SCALE / GRID
        self._random = np.random.Generator(np.random.Philox(secrets.randbits(256) if seed is None else seed))

    def draw(self, shape: Sequence[int]) -> np.ndarray:
        """float32 noise in steps of 8-bit pixel values: multiples of 2^-10, standard deviation 255 s.

        Added to integer pixel values the float32 sum is exact, and equal to the rounding of the sum itself: what
        comes after is a function of x' + e, as the theorem needs.
        """
        steps = self._random.standard_normal(tuple(shape))
        steps *= self._scale
        np.rint(steps, out=steps)
        # Ten standard deviations, in whole steps: beyond it a draw (probability 1e-23) would leave the exact range.
        limit = math.ceil(10 * self._scale)
        np.clip(steps, -limit, limit, out=steps)
        steps *= GRID
        return steps.astype(np.float32)
