"""One writer per store: an advisory lock that vanishes with its process, even when that is killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import TrainerError


@contextmanager
def writer_lock(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path`.

    shared: for the other workers of the same run, after the first one has taken the lock and downgraded it.

    Raises:
        TrainerError: another writer holds it, or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise TrainerError(
            f"{path}: cannot write here ({error.strerror}); expected a writable folder. "
            "Nothing was changed; mend its permissions, or work on a copy elsewhere"
        ) from error
    try:
        _acquire(handle, path, shared)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, shared: bool) -> None:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(handle, 100, 0).decode(errors="replace").strip() or "unknown"
        raise TrainerError(
            f"{path}: another process (process id {owner}) is writing this store; expected one writer at a time. "
            "Wait until it ends, or end it: what it has stored is kept and this run continues from there. "
            "To share the work among processes start them with torchrun"
        ) from error
    if not shared:
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
