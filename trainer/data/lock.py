"""One writer per store: an advisory lock on a file, which vanishes with its process, even when that is killed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from rrise.trainer.errors import TrainerError


class WriterLock:
    """The lock file `path` (None: a place without locks). Exclusive by default; shared within one run."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self, *, shared: bool = False, wait: bool = False) -> None:
        """Take the lock.

        Raises:
            TrainerError: another writer holds it (and `wait` is false), or the folder cannot be written to.
        """
        if self._path is None:
            return
        handle = self._open(self._path)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise self._taken(handle) from error
        if not shared:
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._handle = handle

    def share(self) -> None:
        """Turn the exclusive lock into a shared one, so that the other processes of this run can take it."""
        if self._handle is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:  # the system gives a lock back before it takes the other kind
            handle, self._handle = self._handle, None
            raise self._taken(handle) from error

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _taken(self, handle: int) -> TrainerError:
        """The message that another process has the lock; closes `handle`."""
        owner = os.pread(handle, 100, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        return TrainerError(
            f"{self._path}: another process (process id {owner}) is writing this store; expected one writer at a "
            "time. Wait until it ends, or end it: what it has stored is kept and this run continues from there. "
            "To share the work among processes start them with torchrun"
        )

    @staticmethod
    def _open(path: Path) -> int:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise TrainerError(
                f"{path}: cannot write here ({error.strerror}); expected a writable folder. "
                "Nothing was changed; mend its permissions, or work on a copy elsewhere"
            ) from error
