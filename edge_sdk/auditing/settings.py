"""How audits beside a camera loop are made, and what became of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

from rrise.edge_sdk.errors import EdgeError


@dataclass(frozen=True)
class AuditSettings:
    """How audits are made.

    Attributes:
        interval: seconds between audited frames, at least the time after which the robot sees another scene: the
            evidence supposes that audits err independently of each other.
        rate: evaluations of the base classifier per second, at most.
        max_samples: evaluations per audit; a question that is open after them counts as right.
        slip: probability with which a right certificate is called wrong; the evidence allows for it.
        waiting: frames that may wait; one that comes when they do is dropped.
        restarts: how often a process that died or hung is started again.
        timeout: seconds after which an audit counts as hung; None: a minute and twice what the rate asks for.
        provider: of ONNX Runtime, for the base classifier.
    """

    interval: float = 60.0
    rate: float = 50.0
    max_samples: int = 2000
    slip: float = 0.001
    waiting: int = 2
    restarts: int = 3
    timeout: Optional[float] = None
    provider: str = "cpu"

    def __post_init__(self) -> None:
        numbers = 0 <= self.interval < math.inf and 0 < self.rate < math.inf and 0 < self.slip < 1
        whole = self.max_samples >= 1 and self.waiting >= 1 and self.restarts >= 0
        if not (numbers and whole and (self.timeout is None or self.timeout > 0)):
            raise EdgeError(
                f"audit settings: got {self}; expected interval >= 0, rate > 0, 0 < slip < 1, max_samples and waiting"
                " >= 1, restarts >= 0, timeout > 0"
            )

    @property
    def patience(self) -> float:
        """Seconds after which an audit counts as hung."""
        return 60.0 + 2.0 * self.max_samples / self.rate if self.timeout is None else self.timeout


@dataclass
class AuditCounts:
    """Frames taken for an audit, dropped because others waited, and what became of the taken ones."""

    taken: int = 0
    dropped: int = 0
    right: int = 0
    wrong: int = 0
    undecided: int = 0
    lost: int = 0
    samples: int = 0
