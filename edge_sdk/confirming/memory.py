"""One test for each input: what was asked before is gone on with, and nothing is asked anew."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import Iterator, Tuple

import numpy as np

from rrise.edge_sdk.confirming.question import Question
from rrise.edge_sdk.errors import EdgeError

REMEMBERED = 16_384
"""Inputs: nine minutes of a camera at 30 a second, about 10 MB."""
_MARKED = 4096
"""Values of a frame that its mark is made of, at least; all of a smaller frame."""


def mark_of(frame: np.ndarray) -> bytes:
    """A fingerprint of a C-contiguous frame in a few microseconds: tells frames apart that a program has mixed up.

    It is no proof: no guarantee rests on it, since a test speaks of the frame that it was given.
    """
    flat = frame.reshape(-1)
    step = max(flat.size // _MARKED, 1)
    if step > 1:  # so that all channels and columns take part
        step |= 1
        step += 2 * (step % 3 == 0)
    return hashlib.sha256(np.ascontiguousarray(flat[::step]).data).digest()


class Memory:
    """The questions of the last inputs of a certifier and its clones, kept over swaps.

    **Guarantee**: all calls for one input among the last `REMEMBERED` share one `Question`, so its level is spent once,
    however often one asks. Asking again goes on with the counts that are there: its wealth is that of one bettor over all
    draws for this input, whichever call made them, and the theorem speaks of all times. Another label, radius or level for
    an input that was asked about is refused: it would have been chosen after looking.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._questions: "OrderedDict[Tuple[str, bytes], Question]" = OrderedDict()
        self._busy: "set[Tuple[str, bytes]]" = set()
        self._entry = threading.Lock()  # clones work in other threads

    @contextmanager
    def question(
        self, x: np.ndarray, label: int, radius: float, *, sigma: float, alpha: float, base_digest: str
    ) -> Iterator[Question]:
        """The question about this input, for one caller at a time.

        Args:
            x: float32 [C, h, w], C-contiguous: what noise is added to.

        Raises:
            EdgeError: the input was asked about with another label, radius or level; or another thread is asking.
        """
        # At another sigma it is another smoothed classifier: what was proved of one says nothing about the other.
        key = (f"{base_digest} {float(sigma)!r}", hashlib.sha256(x.data).digest())
        with self._entry:
            found = self._questions.get(key)
            if found is None:
                found = Question(label, radius, sigma=sigma, alpha=alpha)
            elif (found.label, found.radius, found.alpha) != (label, radius, alpha):
                raise EdgeError(
                    f"confirm: this input was asked about before, for label {found.label}, radius {found.radius:g} and level"
                    f" {found.alpha:g}; got label {label}, radius {radius:g} and level {alpha:g}, expected the same: a second"
                    " test of one input would spend the level twice"
                )
            if key in self._busy:
                raise EdgeError(
                    "confirm: another thread is asking about this very input; wait for its answer"
                )
            self._questions[key] = found
            self._questions.move_to_end(key)
            self._busy.add(key)
            while len(self._questions) > self._remembered:
                self._questions.popitem(last=False)
        try:
            yield found
        finally:
            with self._entry:
                self._busy.discard(key)
