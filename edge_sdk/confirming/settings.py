"""How a stream confirms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

from rrise.edge_sdk.certificate import Certificate
from rrise.edge_sdk.confirming.confirmation import check_deadline, check_level
from rrise.edge_sdk.errors import EdgeError


@dataclass(frozen=True)
class Confirm:
    """What a stream spends the rest of its frames' time on.

    Attributes:
        deadline: seconds per frame, at most; less where the stream's own deadline comes first, or the next frame waits.
        when: of which certificates, such as `lambda certificate: certificate.radius >= 0.2`; None: every issued one. It
            sees the certificate as it was issued, and no evaluation.
        alpha: level per input, of each answer.
        batch_size: evaluations at once; None: as many as take a few milliseconds here.
    """

    deadline: float = 0.02
    when: Optional[Callable[[Certificate], bool]] = None
    alpha: float = 0.001
    batch_size: Optional[int] = None

    def __post_init__(self) -> None:
        check_deadline(self.deadline)
        check_level(self.alpha)
        if not (self.when is None or callable(self.when)):
            raise EdgeError(f"confirm: got when={self.when!r}, expected a function of a certificate, or None")
