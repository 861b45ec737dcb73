"""What a kind of guarantee decides: what is counted, which rank, what is refused, and the words."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import List, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.ranks import pac_frames_needed, pac_rank


@dataclass(frozen=True)
class Kind:
    """The kind that promises over new frames with confidence 1 - delta; others override what differs.

    Attributes:
        name: as settings and records write it.
        units: what the rank counts, in words.
        draws: what is drawn independently, in words.
        judged: what the share of wrong certificates is taken over, in words.
        has_confidence: whether the promise is over the calibration set with a confidence of its own.
        guardable: whether an attacker's shift can be taken into the level: not where he can move all his errors into
            one group.
        whole_clips: a clip is one draw, with its largest score; else one frame of each clip is drawn.
        by_class: every predicted class is a group that keeps the promise by itself.
        among_issued: the share is one of issued certificates, so that a right one that is lost weakens it as well.
        not_audited: why audits of frames say nothing about it; empty where they do.
    """

    name: str
    units: str = "calibration frames"
    draws: str = "frames"
    judged: str = "frames"
    has_confidence: bool = True
    guardable: bool = False
    whole_clips: bool = False
    by_class: bool = False
    among_issued: bool = False
    not_audited: str = ""

    @property
    def parted(self) -> bool:
        """Whether a group of frames is ranked by itself, whose size is known only from the frames."""
        return self.by_class or self.among_issued

    def rank(self, units: int, alpha: Fraction, delta: Optional[Fraction]) -> Optional[int]:
        """Which of that many sorted scores is the offset, counted from 1; None when there are too few."""
        return pac_rank(units, alpha, _there(delta))

    def needed(self, alpha: Fraction, delta: Optional[Fraction]) -> int:
        """Least number of units that have a rank."""
        return pac_frames_needed(alpha, _there(delta))

    def among(self, error: Fraction, issued: int, frames: int) -> float:
        """Bound on the share of wrong ones among `issued` certificates of `frames`, both > 0: all errors may fall there."""
        return min(float(error * frames / issued), 1.0)

    def refuse_choice(
        self, threshold: Optional[float], offsets: Sequence[float], radii: Sequence[float], difficulty: bool
    ) -> None:
        """Refuse what a calibration of this kind cannot be called with.

        Args:
            threshold, offsets: see `fit.calibrate`; radii: of a staircase; difficulty: whether one scales the offset.
        """
        if threshold is not None or len(offsets):
            raise CalibrationError(
                f"calibrate: got a threshold or offsets with kind {self.name!r}, expected kind 'selective'"
            )

    def scores(self, excess: np.ndarray, clip: np.ndarray) -> np.ndarray:
        """One score for each draw, from the scores [n] of its frames."""
        return excess

    def num_draws(self, clip: np.ndarray) -> int:
        """How many draws these frames are; `clip` [n] says whose they are."""
        return len(clip)

    def groups(self, label: np.ndarray, classes: int) -> List[np.ndarray]:
        """Masks bool [n] of the frames that are ranked together."""
        return [np.ones(len(label), bool)]

    def counted(
        self, wrong: np.ndarray, *, clip: np.ndarray, independent: np.ndarray, issued: np.ndarray
    ) -> np.ndarray:
        """Whether each draw that the share is taken over is wrong, bool [m].

        Args:
            wrong: bool [n], radius above the reference. clip: [n]. issued: bool [n].
            independent: one frame of each clip, as a mask [n] or as rows.
        """
        return np.asarray(wrong[independent])

    def trials(
        self,
        wrong: np.ndarray,
        *,
        clip: np.ndarray,
        independent: np.ndarray,
        issued: np.ndarray,
        label: np.ndarray,
        classes: int,
    ) -> List[Tuple[int, int]]:
        """(wrong, all) draws of every group that keeps the promise by itself; see `counted`."""
        found = self.counted(wrong, clip=clip, independent=independent, issued=issued)
        return [(int(found.sum()), len(found))]

    def sentence(self, error: str, confidence: str) -> str:
        """The promise in words; both levels as percentages."""
        return (
            f"With confidence {confidence} over the calibration {self.draws} and their Monte Carlo noise, "
            f"{self.promise(error)}, provided that calibration and new {self.draws} are independent draws from one "
            "distribution."
        )

    def promise(self, error: str) -> str:
        """Its part of the sentence: of what at most `error` is wrong."""
        return f"at most {error} of new frames receive a wrong certificate"

    def conditions(self) -> Tuple[str, ...]:
        """What must hold beyond the conditions of every kind."""
        return (
            "Where frames come in clips, one frame of each clip is used, and a new frame is a random frame of a new clip.",
        )

    def elsewhere(self, error: float, share: float) -> str:
        """What is left of the promise where at most `share` of new draws get a larger certificate than was calibrated.

        error: the level, a guard's attacker included.
        """
        return f"So at most {short(error + share)} of new frames receive a wrong certificate"


def short(value: float) -> str:
    """A share as a percentage with three digits."""
    return f"{100 * value:.3g} %"


def _there(delta: Optional[Fraction]) -> Fraction:
    if delta is None:
        raise CalibrationError("a marginal guarantee has no confidence")
    return delta
