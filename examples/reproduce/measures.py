"""What a table's cell says: shares and paired differences with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rrise.calibration.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper


@dataclass(frozen=True)
class Share:
    """hits of frames, with a 95 % Clopper-Pearson interval."""

    hits: int
    frames: int
    value: float
    lower: float
    upper: float

    @classmethod
    def of(cls, hits: int, frames: int) -> Share:
        if not frames:
            return cls(0, 0, 0.0, 0.0, 1.0)
        lower = float(clopper_pearson_lower(hits, frames, 0.025))
        return cls(hits, frames, hits / frames, lower, float(clopper_pearson_upper(hits, frames, 0.025)))


@dataclass(frozen=True)
class Difference:
    """Points of accuracy that a method loses against another on the same frames, with a 95 % interval.

    Source: Agresti and Min 2005 (Wald interval of paired proportions, half an observation more in each cell).
    """

    value: float
    lower: float
    upper: float

    @classmethod
    def of(cls, theirs: np.ndarray, mine: np.ndarray) -> Difference:
        """theirs, mine: bool [n], where each is right."""
        lost, won = int((theirs & ~mine).sum()), int((mine & ~theirs).sum())
        frames = len(mine)
        b, c, total = lost + 0.5, won + 0.5, frames + 2
        half = 1.959964 * math.sqrt(b + c - (b - c) ** 2 / total) / total
        return cls((lost - won) / frames, (b - c) / total - half, (b - c) / total + half)
