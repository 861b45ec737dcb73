"""What is promised, in numbers and in words: kind of guarantee, error level, confidence and the Monte Carlo share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Dict, Optional, Tuple

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.promise.kinds import KINDS as KINDS
from rrise.calibration.promise.kinds import RULES, kind_named
from rrise.calibration.promise.kinds.kind import Kind
from rrise.calibration.statistics.levels import Level, level_text, parse_level

WARN_ABOVE = 0.2
"""A bound on the wrong share among issued certificates above this is warned of."""


@dataclass(frozen=True)
class AmongIssued:
    """How large a share of the issued certificates may be wrong within the promise.

    issued: how many of `frames` received a certificate. bound: eps / share issued, at most 1; eps itself for the selective
    kind; 1 where nothing was issued.
    """

    issued: int
    frames: int
    bound: float

    @property
    def warns(self) -> bool:
        """Whether the bound is above a fifth."""
        return self.bound > WARN_ABOVE

    def sentence(self) -> str:
        """For a person, with a warning where the bound is above a fifth."""
        if not self.issued:
            return f"no certificate was issued on {self.frames:,} frames"
        text = (
            f"up to {100 * self.bound:.3g} % of the issued certificates may be wrong "
            f"where {self.issued:,} of {self.frames:,} frames receive one, as here"
        )
        if self.warns:
            text += (
                "; WARNING: more than a fifth. Who acts on certificates should use a smaller error level or kind = "
                '"selective", which bounds this share itself'
            )
        return text


@dataclass(frozen=True)
class Guarantee:
    """The promise that an offset is calibrated for.

    Attributes:
        error: eps, the largest share of wrong certificates; of what, the kind says.
        confidence: 1 - delta, over the calibration set; None for the marginal kind.
        beta: miss probability of each frame's Monte Carlo bound. The rank uses the miscoverage
            alpha = eps (1 - beta), so that the Monte Carlo error is inside the promise.
        kind: one of `KINDS`; "pac" (training-conditional) is the default.
        guard: guarded tier: what an attacker may do, and the noise against it; None for a plain pass.

    Raises:
        CalibrationError: unknown kind, or levels that contradict each other or the kind.

    **Guarantee**: see `sentence`. A certificate is wrong when its radius exceeds the true radius of the smoothed
    classifier for that label. Source: statements and proofs in calibration/README.md.
    """

    error: Fraction
    confidence: Optional[Fraction] = Fraction(19, 20)
    beta: Fraction = Fraction(1, 10)
    kind: str = "pac"
    guard: Optional[Guard] = None

    def __post_init__(self) -> None:
        rules = kind_named(self.kind)
        if (self.confidence is None) == rules.has_confidence:
            raise CalibrationError(
                f"confidence: got {self.confidence} with kind {self.kind!r}; marginal has none, every other kind needs one"
            )
        for name, level in (("error", self.error), ("confidence", self.confidence), ("beta", self.beta)):
            if level is not None and not 0 < level < 1:
                raise CalibrationError(f"{name}: got {level}, expected a number strictly between 0 and 1")
        if self.confidence is not None and self.confidence < Fraction(1, 2):
            raise CalibrationError(
                f"confidence: got {level_text(self.confidence)}, expected at least 0.5; it is 1 - delta, so perhaps "
                f"{level_text(1 - self.confidence)} is meant"
            )
        if self.guard is not None and not rules.guardable:
            guardable = " or ".join(repr(name) for name, kind in RULES.items() if kind.guardable)
            raise CalibrationError(
                f"guard: got it with kind {self.kind!r}, expected {guardable}: an attacker can move all his errors "
                "into one class, clip or group of issued frames"
            )
        if self.beta > Fraction(1, 2):
            raise CalibrationError(
                f"beta: got {level_text(self.beta)}, expected at most 0.5; it is the share of Monte Carlo bounds that may miss"
            )
        if self.error > Fraction(1, 2):
            raise CalibrationError(
                f"error: got {level_text(self.error)}, expected at most 0.5; it is the share of wrong certificates, so "
                f"perhaps {level_text(1 - self.error)} is meant"
            )

    @classmethod
    def of(
        cls,
        kind: str = "pac",
        error: Level = "0.05",
        confidence: Level = "0.95",
        beta: Level = "0.1",
        guard: Optional[Guard] = None,
    ) -> "Guarantee":
        """Build from text or numbers; `confidence` is ignored for the marginal kind."""
        return cls(
            error=parse_level(error, "error"),
            confidence=parse_level(confidence, "confidence") if kind_named(kind).has_confidence else None,
            beta=parse_level(beta, "beta"),
            kind=kind,
            guard=guard,
        )

    @property
    def rules(self) -> Kind:
        """What the kind decides: units, rank, refusals and words."""
        return kind_named(self.kind)

    @property
    def alpha(self) -> Fraction:
        """Miscoverage that the rank uses: eps (1 - beta), with eps tightened first where there is a guard."""
        error = self.error if self.guard is None else self.guard.level(self.error)
        return error * (1 - self.beta)

    @property
    def delta(self) -> Fraction:
        """1 - confidence of the pac kind."""
        if self.confidence is None:
            raise CalibrationError("a marginal guarantee has no confidence")
        return 1 - self.confidence

    @property
    def _delta(self) -> Optional[Fraction]:
        return None if self.confidence is None else self.delta

    def rank(self, num_frames: int) -> Optional[int]:
        """Which of `num_frames` sorted scores is the offset, counted from 1; None when there are too few.

        For the selective kind they are the scores of the frames that receive a certificate, for per-class those of one
        class, for whole-clip the largest score of each clip.
        """
        return self.rules.rank(num_frames, self.alpha, self._delta)

    def frames_needed(self) -> int:
        """Least number, of what `unit` says, for which any certificate can be issued."""
        return self.rules.needed(self.alpha, self._delta)

    @property
    def unit(self) -> str:
        """What `frames_needed` and `rank` count, in words."""
        return self.rules.units

    def wrong_per_hour(self, frame_rate: float) -> float:
        """Wrong certificates per hour that the error level permits at `frame_rate` frames a second.

        For the selective kind it is reached only where every frame receives a certificate. For whole-clip it supposes
        that clips are equally long.
        """
        return float(self.error) * frame_rate * 3600.0

    def among_issued(self, issued: int, frames: int) -> AmongIssued:
        """The bound on the share of wrong ones among issued certificates, where `issued` of `frames` receive one.

        The promise of all kinds but the selective one is over all frames (for whole-clip: a random frame of a clip), so
        that all of its errors may fall among the issued ones.
        """
        if not issued or not frames:
            return AmongIssued(issued, frames, 1.0)
        return AmongIssued(issued, frames, self.rules.among(self.error, issued, frames))

    def spent(self, attempt: int) -> "Guarantee":
        """The stricter promise that attempt number `attempt` is calibrated for, so that the best of all keeps this one.

        Attempt j spends delta / (j (j + 1)), the marginal kind eps / (j (j + 1)); all shares together are at most delta.
        0 stands for an attempt that no log counts: the caller vouches that it is the only one, and it spends all.

        **Guarantee**: whichever attempt is kept, and however that is chosen, it keeps this promise (union bound).
        """
        if attempt < 0:
            raise CalibrationError(f"attempt: got {attempt}, expected a number from a log, or 0 without one")
        if attempt == 0:
            return self
        return self._share(Fraction(1, attempt * (attempt + 1)))

    def spent_here(self, attempt: int, here: int) -> "Guarantee":
        """The stricter promise for a device's attempt number `here` at a bundle whose own record is attempt `attempt`.

        With i = attempt + here - 1 it spends a share of 1 / (i^2 (i + 1)). There are i pairs with the same i, so that the shares
        of all attempts at all bundles of a product are at most 1 together; the first at the first has as much as the
        bundle had, so that it asks for no larger offset on an execution that answers alike. A bundle that no log counted
        (0) is the only one, and `here` alone counts.

        **Guarantee**: as of `spent`, over bundles and attempts at each: a bundle may be kept by what the calibration frames
        showed, and be calibrated on a device on the same frames.
        """
        if attempt == 0:
            return self.spent(here)
        if min(attempt, here) < 1:
            raise CalibrationError(f"attempt: got {attempt} and {here}, expected numbers from two logs")
        number = attempt + here - 1
        return self._share(Fraction(1, number**2 * (number + 1)))

    def _share(self, share: Fraction) -> "Guarantee":
        """The same at a share of delta, or of eps where there is no delta."""
        if self.confidence is None:
            return replace(self, error=self.error * share)
        return replace(self, confidence=1 - self.delta * share)

    def ten_times_smaller(self) -> "Guarantee":
        """The same promise at a tenth of the error level."""
        return replace(self, error=self.error / 10)

    def sentence(self) -> str:
        """The promise in words, with what it is a probability over and under which conditions."""
        plain = self.rules.sentence(percent(self.error), percent(self.confidence or Fraction(0)))
        return plain + ("" if self.guard is None else " " + self._guard_sentence(self.guard))

    def _guard_sentence(self, guard: Guard) -> str:
        return (
            f"It holds even where an attacker, who cannot foresee the noise of standard deviation {guard.noise:g}, moved "
            f"each new frame by up to {guard.rho:g} in L2, provided that each frame is passed once."
        )

    def conditions(self) -> Tuple[str, ...]:
        """What must hold for the sentence to be true, beyond what it says itself. Each is proved needed by a test."""
        common = (
            "The surrogate, the map and the artefact were chosen without the calibration counts.",
            "The Monte Carlo noise of different frames is independent.",
            "The number of draws of each frame was fixed before its counts were seen, or beta was split beforehand over "
            "the numbers at which they may be looked at.",
            "No calibration frame was dropped because of its counts.",
            "Every further attempt at this product, whatever its frames and settings, is logged and spends its share of delta.",
        )
        return common + self.rules.conditions()

    def limits(self) -> str:
        """What the promise does not say; shown wherever a radius is shown to a person."""
        text = (
            "It is a statement over frames like the calibration frames, not about each frame; it says nothing under "
            "distribution shift"
        )
        if self.guard is None:
            text += ", nor when an attacker has already changed the frame"
        else:
            text += f", nor when an attacker changed the frame by more than {self.guard.rho:g}"
        if self.rules.among_issued:
            return text + "."
        return (
            text + "; among the frames that do receive a certificate the share of wrong ones may be larger."
        )

    def cost_of_ten_times_less(self) -> str:
        """How many frames a ten times smaller error level needs, in words."""
        smaller = self.ten_times_smaller()
        return f"error {percent(smaller.error)} needs at least {smaller.frames_needed():,} {self.unit}"

    def to_json(self) -> Dict[str, Any]:
        return {
            "kind": self.kind,
            "error": level_text(self.error),
            "confidence": None if self.confidence is None else level_text(self.confidence),
            "beta": level_text(self.beta),
            "guard": None if self.guard is None else self.guard.to_json(),
        }

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "Guarantee":
        confidence = value["confidence"]
        return cls(
            error=parse_level(value["error"], "error"),
            confidence=None if confidence is None else parse_level(confidence, "confidence"),
            beta=parse_level(value["beta"], "beta"),
            kind=str(value["kind"]),
            guard=None if value["guard"] is None else Guard.from_json(value["guard"]),
        )


def percent(level: Fraction) -> str:
    """A level as a percentage: Fraction(1, 20) is "5 %"; what is not certain is never called 100 %."""
    text = f"{float(level * 100):.6g}"
    return "just under 100 %" if text == "100" and level < 1 else f"{text} %"
