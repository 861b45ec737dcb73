"""What a cell of a table says: a share of frames, and a paired difference of two shares, each with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rrise.calibration.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper


@dataclass(frozen=True)
class Share:
    """hits of frames, with a 95 % Clopper-Pearson interval (frames taken as independent)."""

    hits: int
    frames: int
    value: float
    lower: float
    upper: float

    @classmethod
    def of(cls, hits: int, frames: int) -> "Share":
        """The share; of no frames nothing is known, so that its interval is [0, 1]."""
        if not frames:
            return cls(0, 0, 0.0, 0.0, 1.0)
        lower = float(clopper_pearson_lower(hits, frames, 0.025))
        upper = float(clopper_pearson_upper(hits, frames, 0.025))
        return cls(int(hits), int(frames), hits / frames, lower, upper)

    @classmethod
    def among(cls, hits: np.ndarray, frames: np.ndarray) -> "Share":
        """Share of `frames`, bool [n], that are `hits`, bool [n], as well."""
        return cls.of(int((hits & frames).sum()), int(frames.sum()))


@dataclass(frozen=True)
class Difference:
    """Share that a method loses against another on the same frames, with a 95 % interval; negative is ahead.

    lost, won: frames where only the other, or only this one, is right.

    Source: Agresti and Min 2005 (Wald interval of paired proportions, half an observation more in each cell).
    """

    value: float
    lower: float
    upper: float
    lost: int = 0
    won: int = 0

    @classmethod
    def of(cls, theirs: np.ndarray, mine: np.ndarray) -> "Difference":
        """theirs, mine: bool [n], where each is right."""
        return cls.from_counts(int((theirs & ~mine).sum()), int((mine & ~theirs).sum()), len(mine))

    @classmethod
    def from_counts(cls, lost: int, won: int, frames: int) -> "Difference":
        """From the two discordant cells of the table of `frames` pairs; of no frames nothing is known."""
        if not frames:
            return cls(0.0, -1.0, 1.0)
        b, c, total = lost + 0.5, won + 0.5, frames + 2
        half = 1.959964 * math.sqrt(b + c - (b - c) ** 2 / total) / total
        return cls((lost - won) / frames, (b - c) / total - half, (b - c) / total + half, lost, won)
