"""Is this a picture of the world? Dark, frozen, uniform and noise frames are found on a subsample, before the certifier.

A certificate says that a label does not change near a frame, not that there is anything to see: a covered lens and
white noise are certified like any other picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import sub
from typing import Tuple

import numpy as np

from rrise.edge_sdk.errors import EdgeError

_SIDE = 32
_VALUES = 1024
"""About so many values of a frame are looked at, spread over all of it."""
_GLANCE = 48
_PAIRS = 500
"""Fewer pairs of neighbours say nothing about noise: frames of 8 x 8 are not judged."""


@dataclass(frozen=True)
class CheckSettings:
    """What counts as unusable.

    Attributes:
        dark: a mean grey level (of 255) below which a frame is dark; 0 switches the check off.
        frozen_after: so many successive frames that equal their predecessor are a frozen camera; real sensors have
            noise. 0 switches the check off, as replays of still pictures need.
        uniform: whether a frame that has one and the same value everywhere is unusable.
        noise: mean squared difference of neighbours over twice the variance, above which a frame is noise; 0 switches
            the check off. White noise has 1 (with 1,024 values .85 to 1.15), photographs .05 to .4.
    """

    dark: float = 4.0
    frozen_after: int = 3
    uniform: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.dark < 255 and self.frozen_after >= 0 and 0 <= self.noise < math.inf):
            raise EdgeError(
                f"checks: got dark {self.dark}, frozen_after {self.frozen_after}, noise {self.noise}; expected 0 to 255,"
                " >= 0 and >= 0"
            )

    @classmethod
    def all(cls) -> "CheckSettings":
        """Every check on, as `Certifier.load(..., checks=True)` has them.

        Measured on 2,000 test pictures each of CIFAR-10 and GTSRB and 300 of Imagenette (224 px): none of them was
        refused, and of frames of uniform, normal or salt-and-pepper noise 99.4 % or more; black and uniform ones all.
        """
        return cls(uniform=True, noise=0.85)


class FrameChecks:
    """Looks at one stream's frames in order; a lens cap or a hung driver shows on a thousand of their values."""

    def __init__(self, settings: CheckSettings) -> None:
        self.settings = settings
        self._shape: Tuple[int, ...] = ()
        self._step = self._channels = 1
        self._last = b""
        self._repeats = 0

    def problem(self, frame: np.ndarray, *, in_order: bool = True) -> str:
        """Why this frame is unusable; empty if it is not.

        Args:
            frame: C-contiguous uint8 [H, W, C] or float32 [C, H, W].
            in_order: whether it follows the one before in time; crops of one picture do not.
        """
        settings = self.settings
        if frame.shape != self._shape:
            self._plan(frame)
        values = frame.reshape(-1)[:: self._step]
        sample = values.tobytes()
        if in_order:
            self._repeats = self._repeats + 1 if sample == self._last else 0
            self._last = sample
            if settings.frozen_after and self._repeats >= settings.frozen_after:
                return f"the picture is frozen: {self._repeats} frames equal their predecessor; restart the camera"
        if frame.dtype == np.uint8:
            # Mostly a glance is enough: a few bright values, or three that differ.
            dark = settings.dark and sum(sample[:64]) < settings.dark * len(sample)
            uniform = settings.uniform and len({*sample[: 3 * self._channels : self._channels]}) == 1
        else:
            dark, uniform = bool(settings.dark), settings.uniform
        if dark:
            level = float(subsample(frame).mean()) * (255.0 if frame.dtype.kind == "f" else 1.0)
            if not level >= settings.dark:
                return f"the picture is dark: mean {level:.1f} of 255, expected at least {settings.dark:g}; look at the lens"
        if uniform and not np.ptp(frame, axis=(0, 1) if frame.dtype == np.uint8 else (1, 2)).any():
            return "the picture is uniform: one value everywhere; look at the lens and the camera's driver"
        return self._noise(frame, values, sample) if settings.noise and len(values) >= _PAIRS else ""

    def _noise(self, frame: np.ndarray, values: np.ndarray, sample: bytes) -> str:
        apart = self._channels if frame.dtype == np.uint8 else 1
        there = frame.reshape(-1)[apart :: self._step]
        if frame.dtype == np.uint8:
            few = sample[:_GLANCE]
            apart_by = sum(map(abs, map(sub, few, there[:_GLANCE].tobytes())))
            if apart_by < 0.15 * _GLANCE * (max(few) - min(few)):
                return ""  # of white noise, whatever its kind, it is .2 or more of the range
        here = values[: len(there)].astype(np.float32)
        difference = here - there[: len(here)]
        variance = float(np.dot(here, here)) / len(here) - float(here.sum() / len(here)) ** 2
        ratio = float(np.dot(difference, difference)) / len(here) / max(2.0 * variance, 1e-9)
        if not ratio > self.settings.noise:
            return ""
        return (
            f"the picture is noise: neighbours differ {ratio:.2f} times as much as chance gives, expected at most"
            f" {self.settings.noise:g}; look at the link to the camera"
        )

    def _plan(self, frame: np.ndarray) -> None:
        """A step that has no divisor in common with a row, so that every column and channel is met."""
        self._shape = frame.shape
        self._channels = frame.shape[2] if frame.dtype == np.uint8 else 1
        row = frame.shape[1] * self._channels if frame.dtype == np.uint8 else frame.shape[2]
        self._step = max(frame.size // _VALUES, 1)
        while math.gcd(self._step, row) > 1:
            self._step += 1


def subsample(frame: np.ndarray) -> np.ndarray:
    """At most about 32 x 32 pixels of a frame, spread evenly, as a copy."""
    rows, columns = (0, 1) if frame.dtype == np.uint8 else (1, 2)
    steps = [1] * frame.ndim
    for axis in (rows, columns):
        steps[axis] = max(frame.shape[axis] // _SIDE, 1)
    return frame[tuple(slice(None, None, step) for step in steps)].copy()
