"""Decisions over several frames: act when k of the last n frames are certified with the same label."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque, Optional

from rrise.edge_sdk.certificate import Certificate
from rrise.edge_sdk.errors import EdgeError


@dataclass(frozen=True)
class Decision:
    """A label that enough frames agree on.

    Attributes:
        label, name: of the class.
        votes: certified frames with it among the last n.
        radius: smallest radius among them, so that each of them has at least this, under the promise that it has.
    """

    label: int
    name: str
    votes: int
    radius: float


class KOfN:
    """Keeps the last n certificates; uncertified ones count as no vote, and for k > n / 2 no two labels can win.

    **Guarantee**: none of its own. Successive frames resemble each other and err together, so k certificates are not k
    independent ones: at most the share of wrong certificates that the bundle promises for single frames can be said.
    """

    def __init__(self, k: int, n: int) -> None:
        if not n / 2 < k <= n:
            raise EdgeError(f"k of n: got {k} of {n}, expected more than half and at most all")
        self._k = k
        self._recent: Deque[Certificate] = deque(maxlen=n)

    def update(self, certificate: Certificate) -> Optional[Decision]:
        """Add the newest certificate; the decision that now holds, or None."""
        self._recent.append(certificate)
        certified = [one for one in self._recent if one]
        for label in {one.label for one in certified}:
            votes = [one for one in certified if one.label == label]
            if len(votes) >= self._k:
                return Decision(
                    int(label or 0), str(votes[-1].name), len(votes), min(one.radius for one in votes)
                )
        return None

    def reset(self) -> None:
        """Forget what was seen."""
        self._recent.clear()
