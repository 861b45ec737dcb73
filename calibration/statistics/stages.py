"""References drawn in two stages: few draws for every frame, many for those that the few leave undecided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import certified_radius, clopper_pearson_upper, reference_radius

FIRST_SHARE = 0.1
"""Share of beta that the bound after the first stage has. Frames far from a radius need no more; those near it go on."""
HOPELESS = 1e-3
"""Level of the upper bound that says which frames cannot reach a radius. It decides what is drawn, and proves nothing."""


@dataclass(frozen=True)
class Stages:
    """Draws of every frame, and of those that go on; both fixed before the first draw.

    **Guarantee**: beta is split over the stages beforehand, so that the bounds at both hold together with probability 1 - beta
    for each frame and class (union bound). A frame may therefore end at either, whatever its counts are: which go on is no
    part of the proof. Source: MATHEMATICS, condition (c).
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 < self.first < self.last:
            raise CalibrationError(
                f"stages: got {self.first} and {self.last}, expected two increasing numbers of draws"
            )

    def levels(self, draws: np.ndarray, beta: float) -> np.ndarray:
        """Miss probability of each frame's bounds, float64 [n]: that of its own stage, however many others went on.

        Args:
            draws: int [n], of each frame.

        Raises:
            CalibrationError: a frame with another number of draws, which no bound covers.
        """
        draws = np.asarray(draws, np.int64)
        outside = draws[(draws != self.first) & (draws != self.last)]
        if len(outside):
            raise CalibrationError(
                f"references in stages: got a frame with {outside[0]} draws, expected {self.first} or {self.last}; finish the "
                "sampling"
            )
        return np.where(draws == self.first, beta * FIRST_SHARE, beta * (1.0 - FIRST_SHARE))

    def undecided(self, counts: np.ndarray, sigma: float, beta: float, radii: Sequence[float]) -> np.ndarray:
        """Which frames gain from going on, bool [n]: a radius that may be the frame's is not proved yet.

        Args:
            counts: uint32 [n, K] after the first stage.
            radii: that a bundle shall issue, in [0, 1] pixel units; none stands for all of them: then only frames without a
                majority are decided.
        """
        draws, top = counts.sum(axis=1, dtype=np.int64), counts.max(axis=1)
        reach = certified_radius(clopper_pearson_upper(top, draws, HOPELESS), sigma)
        if not radii:
            return np.asarray(reach > 0)
        proved = reference_radius(top[:, None], draws, sigma, beta * FIRST_SHARE)[:, 0]
        return np.asarray(np.any([(proved < radius) & (radius < reach) for radius in radii], axis=0))
