"""A frame with what is known about its capture, and what a source of frames is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Protocol

from rrise.deprecations import older_names
from rrise.edge_sdk.certificate import FrameId
from rrise.edge_sdk.errors import EdgeError


class SourceLost(EdgeError):
    """A source stopped delivering: unplugged, restarted, or out of reach."""


@dataclass(frozen=True)
class Captured:
    """One frame as its source delivered it.

    Attributes:
        frame: pixels, or None where there are none to be had.
        capture_time: seconds since the epoch, or on the clock that the stream was given.
        frame_id: names the frame; for ROS the header's frame id.
        encoding: of the pixels; None is the bundle's.
        problem: why the frame cannot be used; empty if it can.
    """

    frame: Any
    capture_time: float
    frame_id: FrameId = None
    encoding: Optional[str] = None
    problem: str = ""


class FrameSource(Protocol):
    """Where frames come from.

    Attributes:
        live: True for a camera: frames that nobody waits for are dropped, and a lost source is opened again.
            False for a recording: every frame is answered, and its end is the end.
    """

    live: bool

    def read(self) -> Optional[Captured]:
        """The next frame, or None at the end of a recording. Raises: SourceLost.

        Its pixels are handed on without a copy, to the certifier and to the loop: give each frame memory of its own.
        """

    def reopen(self) -> None:
        """Try once to get a lost source back. Raises: SourceLost."""

    def close(self) -> None:
        """Release the source. Called by the thread that reads."""


if not TYPE_CHECKING:
    __getattr__ = older_names(__name__, {"Source": "FrameSource"})
