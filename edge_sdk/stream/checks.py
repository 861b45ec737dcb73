"""Is this a picture of the world? Dark and frozen frames are found on a subsample, before the certifier sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from rrise.edge_sdk.errors import EdgeError

_SIDE = 32


@dataclass(frozen=True)
class CheckSettings:
    """What counts as unusable.

    Attributes:
        dark: a mean grey level (of 255) below which a frame is dark; 0 switches the check off.
        frozen_after: so many successive frames that equal their predecessor are a frozen camera; real sensors have
            noise. 0 switches the check off, as replays of still pictures need.
    """

    dark: float = 4.0
    frozen_after: int = 3

    def __post_init__(self) -> None:
        if not (0 <= self.dark < 255 and self.frozen_after >= 0):
            raise EdgeError(
                f"checks: got dark {self.dark}, frozen_after {self.frozen_after}; expected 0 to 255, and >= 0"
            )


class FrameChecks:
    """Looks at one stream's frames in order; a lens cap or a hung driver shows on some 32 x 32 of their pixels."""

    def __init__(self, settings: CheckSettings) -> None:
        self._settings = settings
        self._last: Optional[np.ndarray] = None
        self._repeats = 0

    def problem(self, frame: np.ndarray) -> str:
        """Why this frame is unusable; empty if it is not. `frame` is uint8 [H, W, C] or float32 [C, H, W]."""
        sample = subsample(frame)
        same = self._last is not None and np.array_equal(sample, self._last)
        self._repeats = self._repeats + 1 if same else 0
        self._last = sample
        if self._settings.frozen_after and self._repeats >= self._settings.frozen_after:
            return (
                f"the picture is frozen: {self._repeats} frames equal their predecessor; restart the camera"
            )
        level = float(sample.mean()) * (255.0 if sample.dtype.kind == "f" else 1.0)
        if self._settings.dark and not level >= self._settings.dark:
            return f"the picture is dark: mean {level:.1f} of 255, expected at least {self._settings.dark:g}; look at the lens"
        return ""


def subsample(frame: np.ndarray) -> np.ndarray:
    """At most about 32 x 32 pixels of a frame, spread evenly, as a copy."""
    rows, columns = (0, 1) if frame.dtype == np.uint8 else (1, 2)
    steps = [1] * frame.ndim
    for axis in (rows, columns):
        steps[axis] = max(frame.shape[axis] // _SIDE, 1)
    return frame[tuple(slice(None, None, step) for step in steps)].copy()
