"""A time limit that stops a run between blocks, so that it fits into sessions of ten minutes and continues later."""

from __future__ import annotations

import time

from rrise.calibration.errors import RriseError


class OutOfTime(RriseError):
    """The time limit was reached at a safe place; the same command continues from there."""


class Clock:
    """minutes: how long this process may work, counted from now; None is no limit."""

    def __init__(self, minutes: float | None = None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60.0 * minutes

    def out_of_time(self, needed: float = 0.0) -> bool:
        """Whether fewer than `needed` seconds are left."""
        return self._end is not None and time.monotonic() + needed > self._end

    def check(self, stage: str, needed: float = 0.0) -> None:
        """Raise OutOfTime where fewer than `needed` seconds are left."""
        if self.out_of_time(needed):
            raise OutOfTime(f"time is up during: {stage}; run the same command again to continue")
