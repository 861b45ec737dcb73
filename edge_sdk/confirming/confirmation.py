"""What asking the base classifier again said about one certificate."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Dict, Optional

from rrise.edge_sdk.errors import EdgeError


class Outcome(str, Enum):
    """Of a test: the whole radius was proved, the question stayed open, or the radius is larger than the true one."""

    CONFIRMED = "confirmed"
    OPEN = "open"
    REFUTED = "refuted"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Confirmation:
    """The test of one input.

    Attributes:
        outcome: confirmed, open or refuted.
        alpha: level per input, fixed before the first evaluation of this input.
        issued: the radius that was asked about: what the bundle's promise gave to this frame.
        proved: the radius that was proved for this input at level alpha: `issued` where it is confirmed; where it is
            open, the largest of its eighths that was (often 0); 0 where it is refuted.
        samples: evaluations of the base classifier so far, all calls for this input together; new_samples: of this call.
        seconds: what this call took.
        engine: what ran the base classifier. The promise per input speaks of the classifier as this engine computes it.
        reason: why it stayed open, or what refuted it.

    **Guarantee** (over the noise that was drawn for this input; no exchangeability, no calibration is needed): `proved`
    exceeds the true radius of the label with probability at most alpha, and an input whose issued radius is not above
    the true one is refuted with probability at most alpha. Proof: `rrise.edge_sdk.confirming.question`.
    """

    outcome: Outcome
    alpha: float
    issued: float
    proved: float
    samples: int
    seconds: float
    engine: str
    reason: str = ""
    new_samples: int = 0

    def __post_init__(self) -> None:
        fits = {
            Outcome.CONFIRMED: 0.0 < self.proved == self.issued,
            Outcome.OPEN: 0.0 <= self.proved < self.issued,
            Outcome.REFUTED: self.proved == 0.0,
        }[self.outcome]
        if not (fits and 0.0 < self.alpha < 1.0 and self.issued < math.inf):
            raise AssertionError(f"confirmation: {self} contradicts itself")

    def to_json(self) -> Dict[str, Any]:
        return {**asdict(self), "outcome": self.outcome.value}


def check_level(alpha: float) -> float:
    """alpha as a float. Raises: EdgeError: no level."""
    if isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and 0.0 < alpha < 1.0:
        return float(alpha)
    raise EdgeError(f"confirm: got level alpha {alpha!r}, expected a number in (0, 1), such as 0.001")


def check_deadline(deadline: Optional[float]) -> float:
    """The deadline as a float. Raises: EdgeError: no positive number of seconds."""
    if isinstance(deadline, (int, float)) and not isinstance(deadline, bool) and 0.0 < deadline < math.inf:
        return float(deadline)
    raise EdgeError(
        f"confirm: got deadline {deadline!r}, expected a positive number of seconds, such as 0.02"
    )
