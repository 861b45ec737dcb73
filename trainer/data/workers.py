"""One function on many numbers, by worker processes: decoding is what the time of reading pictures goes into."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from rrise.calibration.console import Progress
from rrise.trainer.errors import TrainerError

Result = TypeVar("Result")

CHUNK, FEW = 16, 256
"""Numbers that a worker takes at a time, and how many are not worth starting workers for."""

_work: Callable[[int], Any] | None = None


@dataclass(frozen=True)
class Failure:
    """A number whose work raised a TrainerError, and its message."""

    number: int
    message: str


def spread(
    work: Callable[[int], Result],
    count: int,
    *,
    label: str,
    workers: int | None = None,
    unit: str = "images",
    pieces: Sequence[range] | None = None,
) -> list[Result | Failure]:
    """work(0), ..., work(count - 1), in order; a Failure stands where it raised a TrainerError.

    workers: processes, by default one for each processor that this process may use. They are forked, so `work` needs not
    be importable; what it returns must be small, because it comes back through a pipe.
    pieces: numbers that one worker should take together, all of them in order; by default CHUNK at a time.
    """
    pieces = (
        [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        if pieces is None
        else pieces
    )
    workers = min(available_processors() if workers is None else workers, len(pieces))
    with Progress(count, unit, label) as progress:
        if workers <= 1 or count < FEW:
            results = []
            for number in range(count):
                results.append(_try(work, number))
                progress.advance()
            return results
        return _in_processes(work, count, workers, pieces, progress)


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(
    work: Callable[[int], Any], count: int, workers: int, pieces: Sequence[range], progress: Progress
) -> list[Any]:
    global _work
    results: list[Any] = [None] * count
    context = multiprocessing.get_context("fork")
    _work = work
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:
            futures: dict[Future[list[Any]], int] = {
                pool.submit(_chunk, piece.start, piece.stop): piece.start for piece in pieces
            }
            try:
                for future in as_completed(futures):
                    found = future.result()
                    results[futures[future] : futures[future] + len(found)] = found
                    progress.advance(len(found))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise TrainerError(
            f"a worker process ended suddenly ({error}); most often memory ran out. Close other programs and run the same "
            "command again"
        ) from error
    finally:
        _work = None
    return results


def _begin() -> None:
    """In a worker: one thread, since the workers share the processors, and Ctrl-C is the parent's affair."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _chunk(start: int, stop: int) -> list[Any]:
    assert _work is not None
    return [_try(_work, number) for number in range(start, stop)]


def _try(work: Callable[[int], Result], number: int) -> Result | Failure:
    try:
        return work(number)
    except TrainerError as error:
        return Failure(number, str(error))
