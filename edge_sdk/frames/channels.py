"""Do the camera's channels come in the order that the network learned? OpenCV delivers BGR, most networks took RGB.

Nothing in an array says its order, and a picture with red and blue exchanged is certified like any other. But the
network itself is less sure of it: of a few of the first frames it is asked both ways.
"""

from __future__ import annotations

LOOKS = 32
"""Frames that are compared."""
ENOUGH = 22
"""So many that fit better exchanged are worth a hint. Traffic signs, exchanged: told in 99 of 100 starts; the right
way round in none of 4,000. Where colours say little (CIFAR-10, a weak network): 17 and 0.1 of 100."""
EVERY = 4
"""A comparison costs two passes, so only one frame in so many is compared, until there were enough."""


class ChannelOrder:
    """Counts the frames that fit better with red and blue exchanged.

    Attributes:
        done: nothing more is to be compared.
    """

    def __init__(self) -> None:
        self.done = False
        self._seen = self._looks = self._exchanged = 0

    def due(self) -> bool:
        """Whether this frame is to be compared; to be asked for each."""
        self._seen += 1
        return self._seen % EVERY == 0

    def add(self, given: float, exchanged: float) -> str:
        """Probits of one frame as it was given and with red and blue exchanged; the hint, once, or an empty text."""
        self._looks += 1
        self._exchanged += exchanged > given
        self.done = self._looks >= LOOKS
        if not self.done or self._exchanged < ENOUGH:
            return ""
        return (
            f"channels: {self._exchanged} of {LOOKS} frames fit this bundle better with red and blue exchanged; OpenCV"
            " delivers BGR: pass encoding='bgr8' (or 'rgb8') to `certify`, as the frames really are"
        )
