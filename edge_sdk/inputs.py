"""From whatever a camera delivers to the array that the graph takes."""

from __future__ import annotations

import numpy as np

from edge_sdk.contract import GraphSignature
from edge_sdk.errors import FrameError


def as_frame(frame: object, signature: GraphSignature) -> np.ndarray:
    """Check one frame and return it C-contiguous; copied only where its memory layout demands it.

    Raises:
        FrameError: another type, shape or dtype, or float values outside [0, 1] (NaN included).
    """
    shape = ", ".join(map(str, signature.frame_shape))
    expected = f"expected {signature.dtype} [{shape}]"
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"frame: got {type(frame).__name__}, {expected} as a numpy array")
    if frame.dtype != signature.dtype or frame.shape != signature.frame_shape:
        raise FrameError(
            f"frame: got {frame.dtype} {list(frame.shape)}, {expected}; convert or resize it as in calibration"
        )
    array = np.ascontiguousarray(frame).view(np.ndarray)
    if signature.dtype == "float32" and not (array.min() >= 0.0 and array.max() <= 1.0):
        raise FrameError(
            f"frame: got values from {array.min()} to {array.max()}, expected [0, 1] without NaN; divide by 255"
        )
    return array
