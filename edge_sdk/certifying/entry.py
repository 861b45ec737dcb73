"""Who is inside a certifier: one frame at a time, across swaps, signal handlers, forks, failures and closing."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from time import perf_counter
from typing import Any, Optional

from rrise.edge_sdk.certificate import Certificate, FrameId, Status, withheld
from rrise.edge_sdk.certifying.loaded import Loaded
from rrise.edge_sdk.errors import EdgeError


class Closed(EdgeError):
    """A closed certifier was asked: the one error that is misuse and not a failing runtime's."""


_LIVE: "weakref.WeakSet[Entry]" = weakref.WeakSet()
"""Every certifier of this process, for a child that is forked from it."""

_HOLDERS = ("certify", "_certify_together", "_confirm", "_free", "_take_over")
"""Methods that hold a certifier's lock while they run."""


class Entry:
    """The lock of a certifier, what it answers from, and what is left of it after a failure, a fork or `close`."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._previous: Optional[Loaded] = None
        # ended: closed or another process's, and so for good; a fault ends the loaded bundle only.
        self._closed = self._ended = self._freed = self._foreign = False
        self._entry = threading.Lock()
        self._audit_entry = threading.Lock()
        self._swapping = False
        _LIVE.add(self)

    def _enter_after_swap(self) -> None:
        """Wait for a swap, which is short; any other occupant is a second thread."""
        if (self._swapping and self._entry.acquire()) or self._entry.acquire(False):
            return
        if self._occupied():
            raise EdgeError(
                "certify: another thread is in this certifier; give each thread its own with `clone()`"
            )
        # A signal handler raised while a frame was let in or out: nobody is inside, and the lock is taken over.

    def _occupied(self) -> bool:
        """Whether anybody but the caller's own method runs inside, on any thread's stack."""
        inside = 0
        for frame in sys._current_frames().values():
            above: Any = frame
            while above is not None:
                inside += above.f_code.co_name in _HOLDERS and above.f_locals.get("self") is self
                above = above.f_back
        return inside > 1

    def _leave(self) -> None:
        """Let the next one in; a `close` that came meanwhile is left to whoever was inside."""
        self._entry.release()
        if self._closed:
            self._free()

    def _free(self) -> None:
        """Release the runtime of a closed certifier, once, and never under a frame that is being answered."""
        if self._freed or not (self._entry.acquire(False) or not self._occupied()):
            return
        try:
            if self._freed:
                return
            self._freed = True
            if self._loaded.monitor is not None:
                self._loaded.monitor.save()
            for loaded in (self._loaded, self._previous):
                if loaded is not None:
                    loaded.runtime.close()
                    loaded.course.confirmer = None
            self._previous = None
        finally:
            self._entry.release()

    def _leave_to_parent(self) -> None:
        """After a fork: the runtime's threads and locks stayed in the parent, so this copy answers and releases nothing."""
        self._entry, self._audit_entry = threading.Lock(), threading.Lock()
        self._foreign = self._ended = self._freed = True
        for loaded in (self._loaded, self._previous):
            if loaded is not None:
                for kept in (loaded.runtime, loaded.course.confirmer):
                    # Never destroyed: a session that joins threads which are not there hangs at the end of the process.
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))

    def __reduce_ex__(self, protocol: object) -> Any:
        raise EdgeError(
            "a certifier cannot be copied or sent to another process: load it there with `Certifier.load`, and take"
            " `clone()` for another thread"
        )

    def _refuse(self, loaded: Loaded, when: float, start: float, frame_id: FrameId) -> Certificate:
        if self._foreign:
            raise Closed(
                "certify: this certifier was loaded in the process that this one was forked from; load one in each"
                " process with `Certifier.load`"
            )
        if self._closed:
            raise Closed("certify: this certifier is closed; load a new one with `Certifier.load`")
        reason = f"the runtime failed and stays out of use, load the bundle again: {loaded.course.fault}"
        return withheld(
            Status.FAULT, reason, capture_time=when, latency=perf_counter() - start, frame_id=frame_id
        )

    def _fail(
        self, loaded: Loaded, error: Exception, start: float, when: float, frame_id: FrameId
    ) -> Certificate:
        loaded.course.fault = error
        return self._refuse(loaded, when, start, frame_id)


def _after_fork() -> None:
    for certifier in list(_LIVE):
        certifier._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
