"""When a training has to stop: a time limit, Ctrl-C, or a signal from the machine. It then saves and continues later."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rrise.calibration.errors import RriseError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(RriseError):
    """A training stopped before its end with everything saved; the same command continues it."""


class Clock:
    """minutes: how long this process may work, counted from now; None is no limit.

    >>> Clock().reason(), Clock(minutes=0).reason()
    ('', 'the time limit is reached')
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60.0 * minutes
        self._signal = ""

    def reason(self, needed: float = 0.0) -> str:
        """Why work has to stop now, or nothing. needed: seconds that saving still takes."""
        if self._signal:
            return self._signal
        late = self._end is not None and time.monotonic() + needed >= self._end
        return "the time limit is reached" if late else ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While training, the first Ctrl-C or SIGTERM asks for a stop with everything saved; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._asked) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = f"{signal.Signals(number).name} was received"
