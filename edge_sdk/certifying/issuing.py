"""What is said about a frame that was answered, or refused."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Optional

from rrise.edge_sdk.certificate import Certificate, FrameId, Status, withheld
from rrise.edge_sdk.certifying.loaded import Loaded
from rrise.edge_sdk.errors import FrameError


def issue(
    loaded: Loaded,
    label: int,
    radius: float,
    scale: float,
    start: float,
    when: float,
    frame_id: FrameId,
    mark: Optional[bytes],
) -> Certificate:
    """The certificate of an answer; nothing where certificates are withheld. Raises: ArithmeticError: it is none."""
    if not (0 <= label < len(loaded.names) and 0.0 <= radius < math.inf):
        raise ArithmeticError(f"the runtime answered label {label} with radius {radius}")
    name = loaded.names[label]
    held = loaded.hold.why
    if held is not None:
        status, reason = held
        return Certificate(status, label, name, 0.0, 0.0, when, perf_counter() - start, frame_id, reason)
    radius -= loaded.margin
    if radius > 0.0:
        return Certificate(
            Status.CERTIFIED,
            label,
            name,
            radius,
            radius * scale,
            when,
            perf_counter() - start,
            frame_id,
            loaded.note,
            None,
            mark,
        )
    return Certificate(
        Status.ABSTAINED, label, name, 0.0, 0.0, when, perf_counter() - start, frame_id, loaded.note
    )


def invalid(error: FrameError, start: float, when: float, frame_id: FrameId) -> Certificate:
    """The certificate of a frame that was refused."""
    return withheld(
        Status.INVALID_INPUT, str(error), capture_time=when, latency=perf_counter() - start, frame_id=frame_id
    )
