"""A mailbox of one between a camera's thread and the certifier's: the newest frame wins, drops are counted."""

from __future__ import annotations

import threading
from typing import Optional

from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.stream.captured import Captured, FrameSource, SourceLost

FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0
"""Seconds between attempts to reopen a lost source: doubling from the first to the longest."""


class Mailbox:
    """Reads a source in a thread of its own and keeps the latest frame only."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._changed = threading.Condition()
        self._latest: Optional[Captured] = None
        self._ended = False
        self._error: Optional[BaseException] = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="rrise-mailbox", daemon=True)
        self.received = 0
        self.dropped = 0
        self.reconnects = 0

    def start(self) -> None:
        self._thread.start()

    def put(self, captured: Captured) -> None:
        """Replace what is waiting."""
        with self._changed:
            self.received += 1
            self.dropped += self._latest is not None
            self._latest = captured
            self._changed.notify()

    def waiting(self) -> bool:
        """Whether a frame is there to be taken."""
        return self._latest is not None

    def take(self, timeout: Optional[float]) -> Optional[Captured]:
        """The latest frame, waiting for one; None when `timeout` seconds pass without. Raises whatever the source raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._ended, timeout)
            captured, self._latest = self._latest, None
            if captured is None and self._error is not None:
                raise self._error
            return captured

    @property
    def ended(self) -> bool:
        """Whether no further frame will come."""
        with self._changed:
            return self._ended and self._latest is None

    def close(self) -> None:
        """Stop reading; the reading thread releases the source, since captures are not safe to release under a read."""
        self._stop.set()
        if self._thread.ident is None:
            self._source.close()
        else:
            self._thread.join(timeout=LONGEST_WAIT)

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    captured = self._source.read()
                except SourceLost:
                    self._reconnect()
                    continue
                if captured is None:
                    break
                self.put(captured)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits for frames
            self._error = (
                error if isinstance(error, EdgeError) else EdgeError(f"stream: the source failed: {error!r}")
            )
        finally:
            self._source.close()
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _reconnect(self) -> None:
        wait = FIRST_WAIT
        while not self._stop.wait(wait):
            try:
                self._source.reopen()
            except SourceLost:
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            self.reconnects += 1
            return
