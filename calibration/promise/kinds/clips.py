"""The promise over whole clips: none but a small share contains a wrong certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from rrise.calibration.promise.kinds.kind import Kind, short


@dataclass(frozen=True)
class WholeClip(Kind):
    """A clip is one draw, as wrong as its worst frame."""

    def scores(self, excess: np.ndarray, clip: np.ndarray) -> np.ndarray:
        return clip_maxima(excess, clip)

    def num_draws(self, clip: np.ndarray) -> int:
        return len(np.unique(clip))

    def counted(
        self, wrong: np.ndarray, *, clip: np.ndarray, independent: np.ndarray, issued: np.ndarray
    ) -> np.ndarray:
        clips, place = np.unique(clip, return_inverse=True)
        return np.bincount(place.ravel()[wrong], minlength=len(clips)) > 0

    def promise(self, error: str) -> str:
        return f"at most {error} of new clips contain a frame with a wrong certificate"

    def conditions(self) -> Tuple[str, ...]:
        return ("New clips are as long as the calibration clips are.",)

    def elsewhere(self, error: float, share: float) -> str:
        return f"So at most {short(error + share)} of new clips contain a frame with a wrong certificate"


def clip_maxima(excess: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Largest score of each clip, float32 [number of clips]."""
    _, place = np.unique(clip, return_inverse=True)
    largest = np.full(place.max() + 1, -np.inf, np.float32)
    np.maximum.at(largest, place, excess)
    return largest


WHOLE_CLIP = WholeClip(
    "whole-clip",
    units="calibration clips",
    draws="clips",
    judged="clips",
    whole_clips=True,
    not_audited="a guarantee of kind whole-clip speaks of clips, not of frames",
)
