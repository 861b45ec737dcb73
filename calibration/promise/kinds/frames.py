"""Promises over all new frames: with a confidence over the calibration set, or on average over it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Optional

from rrise.calibration.promise.kinds.kind import Kind
from rrise.calibration.statistics.ranks import marginal_frames_needed, marginal_rank


@dataclass(frozen=True)
class Marginal(Kind):
    """On average over calibration sets: the rank of split conformal prediction."""

    def rank(self, units: int, alpha: Fraction, delta: Optional[Fraction]) -> Optional[int]:
        return marginal_rank(units, alpha)

    def needed(self, alpha: Fraction, delta: Optional[Fraction]) -> int:
        return marginal_frames_needed(alpha)

    def sentence(self, error: str, confidence: str) -> str:
        return (
            f"A new frame receives a wrong certificate with probability at most {error}, over the draw of the "
            "calibration frames, their Monte Carlo noise and the new frame, provided that all are exchangeable."
        )


PAC = Kind("pac", guardable=True)
MARGINAL = Marginal("marginal", has_confidence=False, guardable=True)
