"""The answer to one frame: a label with a certified radius, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Dict, Optional, Union

FrameId = Union[str, int, None]


class Status(str, Enum):
    """Why a certificate is as it is. Only `CERTIFIED` has a radius above 0."""

    CERTIFIED = "certified"
    ABSTAINED = "abstained"
    STALE = "stale"
    INVALID_INPUT = "invalid_input"
    SUSPENDED = "suspended"
    UNVERIFIED = "unverified"
    FAULT = "fault"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Certificate:
    """One frame's answer. True in a condition exactly when it is certified.

    Attributes:
        status: why the radius is as it is.
        label: index of the answered class; None where the frame was not run or its answer may not be used.
        name: that class's name.
        radius: certified L2 radius at the network's input, in [0, 1] pixel units; 0 unless certified.
        frame_radius: the same promise in terms of the frame: no change of frame / 255 by less than this L2 norm
            leaves the certified ball. 0 where no bound on the preprocessing is known.
        capture_time: seconds since the epoch, as given with the frame, else when `certify` was entered.
        latency: seconds from entering `certify` to the answer.
        frame_id: as given with the frame.
        reason: what to know beyond the status, in words; empty when certified and nothing is to be said.

    **Guarantee**: that of the bundle (`Certifier.guarantee`), over frames like the calibration frames; it says
    nothing about this frame alone, nor under distribution shift.
    """

    __slots__ = (  # noqa: RUF023 - the order of the fields
        "status",
        "label",
        "name",
        "radius",
        "frame_radius",
        "capture_time",
        "latency",
        "frame_id",
        "reason",
    )

    status: Status
    label: Optional[int]
    name: Optional[str]
    radius: float
    frame_radius: float
    capture_time: float
    latency: float
    frame_id: FrameId
    reason: str

    def __post_init__(self) -> None:
        # The one invariant that must hold whatever else goes wrong; NaN and infinity fail it too.
        if not (0.0 < self.radius < _INFINITY if self.status is Status.CERTIFIED else self.radius == 0.0):
            raise AssertionError(
                f"certificate {self.status} with radius {self.radius}: only certified ones have a radius"
            )

    def __bool__(self) -> bool:
        return self.status is Status.CERTIFIED

    def __getstate__(self) -> Dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> Dict[str, Any]:
        """The fields as JSON values, in the order of the class."""
        return {name: getattr(self, name) for name in self.__slots__} | {"status": self.status.value}

    def to_line(self) -> str:
        """One line for a terminal: "3 certified, radius 0.214 (1.9 ms)"."""
        what = f"{self.name} " if self.name is not None else ""
        size = f", radius {self.radius:.4g}" if self else ""
        why = f": {self.reason}" if self.reason else ""
        return f"{what}{self.status}{size} ({self.latency * 1e3:.2f} ms){why}"


_INFINITY = float("inf")


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
