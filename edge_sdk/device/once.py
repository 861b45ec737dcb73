"""Guarded tier: a frame is passed once. Of several answers, each with noise of its own, the best would be kept."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np

from rrise.edge_sdk.errors import FrameError

REMEMBERED = 4096
"""Frames: more than two minutes of a camera at 30 a second."""


class Once:
    """The digests of the last frames that a certifier and its clones were given."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._seen: "OrderedDict[bytes, None]" = OrderedDict()
        self._entry = threading.Lock()  # clones work in other threads

    def check(self, frame: np.ndarray) -> None:
        """Note a frame, C-contiguous. Raises: FrameError: it was given before."""
        digest = hashlib.sha256(frame.data).digest()
        with self._entry:
            if digest in self._seen:
                raise FrameError(
                    "frame: got the same one again, expected each frame once: in the guarded tier every pass has its own noise,"
                    " and keeping the better of two answers voids the guarantee; use the first answer"
                )
            self._seen[digest] = None
            while len(self._seen) > self._remembered:
                self._seen.popitem(last=False)
