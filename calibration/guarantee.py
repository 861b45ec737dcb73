"""What is promised, in numbers and in words: kind of guarantee, error level, confidence and the Monte Carlo share."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Dict, Optional

from calibration.errors import CalibrationError
from calibration.levels import Level, level_text, parse_level
from calibration.ranks import marginal_frames_needed, marginal_rank, pac_frames_needed, pac_rank

KINDS = ("marginal", "pac")


@dataclass(frozen=True)
class Guarantee:
    """The promise that an offset is calibrated for.

    Attributes:
        kind: "pac" (training-conditional, the default) or "marginal".
        error: eps, the largest probability that a frame receives a wrong certificate.
        confidence: 1 - delta, over the calibration set; None for the marginal kind.
        beta: miss probability of each frame's Monte Carlo bound. The rank uses the miscoverage
            alpha = eps (1 - beta), so that the Monte Carlo error is inside the promise.

    **Guarantee**: see `sentence`. A certificate is wrong when its radius exceeds the true radius of the smoothed
    classifier for that label. Source: MATHEMATICS section 2 in docs/guarantee.md.
    """

    error: Fraction
    confidence: Optional[Fraction] = Fraction(19, 20)
    beta: Fraction = Fraction(1, 10)
    kind: str = "pac"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CalibrationError(f"guarantee: got kind {self.kind!r}, expected one of {', '.join(KINDS)}")
        if (self.confidence is None) != (self.kind == "marginal"):
            raise CalibrationError(
                f"confidence: got {self.confidence} with kind {self.kind!r}; pac needs one, marginal has none"
            )

    @classmethod
    def of(
        cls, kind: str = "pac", error: Level = "0.05", confidence: Level = "0.95", beta: Level = "0.1"
    ) -> "Guarantee":
        """Build from text or numbers; `confidence` is ignored for the marginal kind."""
        return cls(
            error=parse_level(error, "error"),
            confidence=None if kind == "marginal" else parse_level(confidence, "confidence"),
            beta=parse_level(beta, "beta"),
            kind=kind,
        )

    @property
    def alpha(self) -> Fraction:
        """Miscoverage eps (1 - beta) that the rank uses."""
        return self.error * (1 - self.beta)

    @property
    def delta(self) -> Fraction:
        """1 - confidence of the pac kind."""
        if self.confidence is None:
            raise CalibrationError("a marginal guarantee has no confidence")
        return 1 - self.confidence

    def rank(self, num_frames: int) -> Optional[int]:
        """Which of `num_frames` sorted scores is the offset, counted from 1; None when there are too few."""
        if self.kind == "marginal":
            return marginal_rank(num_frames, self.alpha)
        return pac_rank(num_frames, self.alpha, self.delta)

    def frames_needed(self) -> int:
        """Least number of calibration frames for which any certificate can be issued."""
        if self.kind == "marginal":
            return marginal_frames_needed(self.alpha)
        return pac_frames_needed(self.alpha, self.delta)

    def wrong_per_hour(self, frame_rate: float) -> float:
        """Wrong certificates per hour that the error level permits at `frame_rate` frames a second."""
        return float(self.error) * frame_rate * 3600.0

    def ten_times_smaller(self) -> "Guarantee":
        """The same promise at a tenth of the error level."""
        return Guarantee(self.error / 10, self.confidence, self.beta, self.kind)

    def sentence(self) -> str:
        """The promise in words, with what it is a probability over and under which conditions."""
        error = percent(self.error)
        if self.kind == "marginal":
            return (
                f"A new frame receives a wrong certificate with probability at most {error}, over the draw of the "
                "calibration frames, their Monte Carlo noise and the new frame, provided that all are exchangeable."
            )
        return (
            f"With confidence {percent(self.confidence or Fraction(0))} over the calibration frames and their Monte "
            f"Carlo noise, at most {error} of new frames receive a wrong certificate, provided that calibration and "
            "new frames are independent draws from one distribution."
        )

    def limits(self) -> str:
        """What the promise does not say; shown wherever a radius is shown to a person."""
        return (
            "It is a statement over frames like the calibration frames, not about each frame; it says nothing under "
            "distribution shift, nor when an attacker has already changed the frame; among the frames that do receive "
            "a certificate the share of wrong ones may be larger."
        )

    def to_json(self) -> Dict[str, Any]:
        return {
            "kind": self.kind,
            "error": level_text(self.error),
            "confidence": None if self.confidence is None else level_text(self.confidence),
            "beta": level_text(self.beta),
        }

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "Guarantee":
        confidence = value["confidence"]
        return cls(
            error=parse_level(value["error"], "error"),
            confidence=None if confidence is None else parse_level(confidence, "confidence"),
            beta=parse_level(value["beta"], "beta"),
            kind=str(value["kind"]),
        )


def percent(level: Fraction) -> str:
    """A level as a percentage: Fraction(1, 20) is "5 %"."""
    return f"{float(level * 100):.6g} %"
