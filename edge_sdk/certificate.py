"""The answer to one frame: a label with a certified radius, or the reason why there is none."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union

if TYPE_CHECKING:
    from rrise.edge_sdk.confirming.confirmation import Confirmation

FrameId = Union[str, int, None]
FIELDS = (
    "status",
    "label",
    "name",
    "radius",
    "frame_radius",
    "capture_time",
    "latency",
    "frame_id",
    "reason",
    "confirmation",
)


class Status(str, Enum):
    """Why a certificate is as it is. Only `CERTIFIED` and `CONFIRMED` have a radius above 0, each under a promise of its own."""

    CERTIFIED = "certified"
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    ABSTAINED = "abstained"
    STALE = "stale"
    INVALID_INPUT = "invalid_input"
    SUSPENDED = "suspended"
    UNVERIFIED = "unverified"
    FAULT = "fault"

    def __str__(self) -> str:
        return self.value


class Certificate:
    """One frame's answer; immutable. True in a condition exactly when it is certified or confirmed.

    A class with slots and properties and no dataclass: making one is on the path of every frame, and a frozen
    dataclass costs three times as much there.

    **Guarantee**: that of the bundle (`Certifier.guarantee`), over frames like the calibration frames; it says
    nothing about this frame alone, nor under distribution shift. In the guarded tier it also holds where the camera
    delivered a frame that was moved by at most rho: the radius is around the frame that was delivered.

    A certificate that `Certifier.confirm` upgraded (status `confirmed`) promises something else instead, about this input
    alone: see `promise` and `confirmation`.
    """

    __slots__ = (*(f"_{name}" for name in FIELDS), "_mark")

    def __init__(
        self,
        status: Status,
        label: Optional[int],
        name: Optional[str],
        radius: float,
        frame_radius: float,
        capture_time: float,
        latency: float,
        frame_id: FrameId,
        reason: str,
        confirmation: "Optional[Confirmation]" = None,
        mark: Optional[bytes] = None,
    ) -> None:
        # The one invariant that must hold whatever else goes wrong; NaN and infinity fail it too.
        if not (
            0.0 < radius < _INFINITY
            if status is Status.CERTIFIED or status is Status.CONFIRMED
            else radius == 0.0
        ):
            raise AssertionError(
                f"certificate {status} with radius {radius}: only certified and confirmed ones have a radius"
            )
        if confirmation is not None or status is Status.CONFIRMED or status is Status.REFUTED:
            _check_confirmation(status, radius, confirmation)
        self._status = status
        self._label = label
        self._name = name
        self._radius = radius
        self._frame_radius = frame_radius
        self._capture_time = capture_time
        self._latency = latency
        self._frame_id = frame_id
        self._reason = reason
        self._confirmation = confirmation
        self._mark = mark

    @property
    def status(self) -> Status:
        """Why the radius is as it is."""
        return self._status

    @property
    def label(self) -> Optional[int]:
        """Index of the answered class; None where the frame was not run or its answer may not be used."""
        return self._label

    @property
    def name(self) -> Optional[str]:
        """That class's name."""
        return self._name

    @property
    def radius(self) -> float:
        """Certified L2 radius at the network's input, in [0, 1] pixel units; 0 unless certified."""
        return self._radius

    @property
    def frame_radius(self) -> float:
        """The same in terms of the frame: no change of frame / 255 by less than this L2 norm leaves the certified ball.

        The frame is the one given to `certify`; of a stream the one that it hands out, decoded. 0 where no bound on the
        preprocessing is known, and for a frame that `certify` resized or decoded.
        """
        return self._frame_radius

    @property
    def capture_time(self) -> float:
        """Seconds since the epoch, as given with the frame, else when `certify` was entered."""
        return self._capture_time

    @property
    def latency(self) -> float:
        """Seconds from entering `certify` to the answer."""
        return self._latency

    @property
    def frame_id(self) -> FrameId:
        """As given with the frame."""
        return self._frame_id

    @property
    def reason(self) -> str:
        """What to know beyond the status, in words; empty when certified and nothing is to be said."""
        return self._reason

    @property
    def confirmation(self) -> "Optional[Confirmation]":
        """What `Certifier.confirm` found; None where it was not asked."""
        return self._confirmation

    @property
    def promise(self) -> str:
        """Which promise `radius` is under; never both.

        "bundle": `Certifier.guarantee`, over frames like the calibration frames. "input": this label and radius hold for this
        very input, but for a probability of `confirmation.alpha` over the noise of the test. Empty where radius is 0.
        """
        return {Status.CERTIFIED: "bundle", Status.CONFIRMED: "input"}.get(self._status, "")

    @property
    def issued_radius(self) -> float:
        """The radius under the bundle's promise, whatever `confirm` has made of it: what audits judge."""
        return self._radius if self._confirmation is None else self._confirmation.issued

    @property
    def answered(self) -> bool:
        """Whether the network's answer counts: certified or abstained, and what `confirm` made of it."""
        return self._status in _ANSWERED

    @property
    def mark(self) -> Optional[bytes]:
        """Fingerprint of the frame, where the bundle can confirm; None elsewhere."""
        return self._mark

    def __bool__(self) -> bool:
        return self._status is Status.CERTIFIED or self._status is Status.CONFIRMED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(tuple(value for name, value in self.to_json().items() if name != "confirmation"))

    def __repr__(self) -> str:
        return f"Certificate({', '.join(f'{name}={value!r}' for name, value in self.to_json().items())})"

    def __reduce__(self) -> Tuple[Any, ...]:
        return Certificate, (*(getattr(self, name) for name in FIELDS), self._mark)

    def to_json(self) -> Dict[str, Any]:
        """The fields as JSON values, in the order of the constructor; a frame id that is neither text nor int as text."""
        frame_id = self._frame_id
        known = frame_id is None or isinstance(frame_id, (str, int))
        fields = {name: getattr(self, name) for name in FIELDS}
        return {
            **fields,
            "status": self._status.value,
            "capture_time": float(self._capture_time),
            "frame_id": frame_id if known else str(frame_id),
            "confirmation": None if self._confirmation is None else self._confirmation.to_json(),
        }

    def to_line(self) -> str:
        """One line for a terminal: "3 certified, radius 0.214 (1.9 ms)"."""
        what = f"{self.name} " if self.name is not None else ""
        size = f", radius {self.radius:.4g}" if self else ""
        if self._confirmation is not None and self:
            size += f" ({self._confirmation.outcome} at level {self._confirmation.alpha:g} per input)"
        why = f": {self.reason}" if self.reason else ""
        return f"{what}{self.status}{size} ({self.latency * 1e3:.2f} ms){why}"


_INFINITY = float("inf")
_ANSWERED = (Status.CERTIFIED, Status.CONFIRMED, Status.REFUTED, Status.ABSTAINED)


def _check_confirmation(status: Status, radius: float, found: "Optional[Confirmation]") -> None:
    """A radius is under the promise that the status names, and a test belongs to it. Raises: AssertionError."""
    outcome = None if found is None else found.outcome.value
    fits = {
        Status.CONFIRMED: outcome == "confirmed" and found is not None and radius == found.proved,
        Status.REFUTED: outcome == "refuted",
        Status.CERTIFIED: outcome == "open" and found is not None and radius == found.issued,
    }.get(status, True)
    if not fits:
        raise AssertionError(f"certificate {status} with radius {radius} and a test that was {outcome}")


def withheld(
    status: Status,
    reason: str,
    *,
    capture_time: float,
    latency: float = 0.0,
    frame_id: FrameId = None,
    label: Optional[int] = None,
    name: Optional[str] = None,
) -> Certificate:
    """A certificate that certifies nothing, with its reason."""
    return Certificate(status, label, name, 0.0, 0.0, capture_time, latency, frame_id, reason)
