"""Code that the user brings (networks, factories, callables) may raise anything; the trainer raises TrainerError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rrise.calibration.errors import RriseError
from rrise.trainer.errors import TrainerError

LONGEST = 400


@contextmanager
def user_code(what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever the user's code, or a runtime, raises into a TrainerError "`what` (cause)`advice`", which is exit status 2.

    Errors of rrise pass as they are. So does running out of memory, for callers that then try a smaller batch, and what
    ends the process from outside (KeyboardInterrupt); SystemExit, which a module may raise when imported, does not.
    """
    try:
        yield
    except RriseError:
        raise
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise
        raise TrainerError(f"{what} ({describe_error(error)}){advice}") from error


def describe_error(error: BaseException) -> str:
    """Type and message of an exception on one line."""
    text = " ".join(str(error).split())
    cut = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return f"{type(error).__name__}: {cut}" if cut else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that host or device memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
