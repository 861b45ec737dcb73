"""From whatever a camera delivers to the array that the graph takes."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Tuple

import numpy as np

from rrise.calibration.images.resizing import triangle_filter
from rrise.edge_sdk.errors import FrameError
from rrise.edge_sdk.formats.contract import GraphSignature
from rrise.edge_sdk.frames.encodings import convert_encoding, same_values

_CPU = 1
"""Device type of host memory in DLPack."""

_SMALL = 1 << 16
"""Pixels of a crop up to which one product of whole matrices is faster than many small ones."""

_ELSEWHERE = "frame: lies in device memory, here host memory is read; copy it with .cpu() or .get()"


@dataclass(frozen=True)
class Roi:
    """A rectangle in pixels of the decoded frame: left, top, width, height, wholly inside it."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Prepared:
    """A checked frame, C-contiguous.

    `altered`: its values are no longer the delivered frame's own, for it was resized or decoded; channels in another
    order and crops alter nothing.
    """

    frame: np.ndarray
    altered: bool


def prepare_frame(
    frame: Any,
    signature: GraphSignature,
    target: str,
    *,
    encoding: Optional[str] = None,
    roi: Optional[Roi] = None,
) -> Prepared:
    """Decode, crop and check one frame.

    Args:
        frame: a numpy array of any strides ([H, W] too where the graph takes one channel), an object with DLPack or the
            array interface in host memory, or bytes of an encoding that is bytes.
        signature: of the graph.
        target: the bundle's encoding.
        encoding: what the frame is; None is the bundle's.
        roi: crop; one of another size than the graph's frame is resized as `resize` does.

    Raises:
        FrameError: whatever does not fit, in words.
    """
    try:
        return _prepare(frame, signature, target, encoding, roi)
    except FrameError:
        raise
    except (
        Exception
    ) as error:  # a frame, encoding or crop may be anything, and none of them is a runtime's failure
        raise FrameError(f"frame: cannot be read ({type(error).__name__}: {error})") from error


def _prepare(
    frame: Any, signature: GraphSignature, target: str, encoding: Optional[str], roi: Optional[Roi]
) -> Prepared:
    pixels = frame if isinstance(frame, (bytes, bytearray, memoryview)) else as_array(frame, signature)
    altered = False
    if encoding is not None and encoding != target:
        pixels, altered = convert_encoding(pixels, encoding, target), not same_values(encoding, target)
    pixels = with_channel(pixels, signature)
    if roi is None:
        return Prepared(check_frame(pixels, signature), altered)
    crop, size = cut(check_image(pixels, signature), roi), signature.frame_shape[:2]
    if crop.shape[:2] == size:
        return Prepared(check_frame(crop, signature), altered)
    return Prepared(check_frame(resize(crop, (size[0], size[1])), signature), True)


def capture_seconds(capture_time: Any) -> float:
    """A capture time as a number that can be compared with others. Raises: FrameError: no finite real number."""
    if type(capture_time) is float and math.isfinite(capture_time):
        return float(capture_time)
    try:
        if isinstance(capture_time, numbers.Real) and not isinstance(capture_time, bool):
            seconds = float(capture_time)
            if math.isfinite(seconds):
                return seconds
        shown = repr(capture_time)[:80]
    except Exception:  # noqa: BLE001 - whatever the caller's object does, it is no failure of the runtime
        shown = type(capture_time).__name__
    raise FrameError(f"capture_time: got {shown}, expected seconds since the epoch")


def as_array(frame: Any, signature: GraphSignature) -> np.ndarray:
    """View an array-like object as numpy, without a copy. Raises: FrameError."""
    if isinstance(frame, np.ndarray):
        if np.ma.is_masked(frame):
            raise FrameError(f"frame: got a masked array, {_expected(signature)} without a mask")
        return frame.view(np.ndarray)
    try:
        if hasattr(frame, "__dlpack__"):
            if frame.__dlpack_device__()[0] != _CPU:
                raise FrameError(_ELSEWHERE)
            if not hasattr(np, "from_dlpack"):
                raise FrameError(
                    f"frame: got DLPack with numpy {np.__version__}, expected 1.22 or newer; pass it as a numpy array"
                )
            return np.from_dlpack(frame)
        if hasattr(frame, "__array_interface__"):
            return np.asarray(frame)
        if hasattr(frame, "__cuda_array_interface__"):
            raise FrameError(_ELSEWHERE)
    except FrameError:
        raise
    except Exception as error:  # an exporter may raise anything
        raise FrameError(f"frame: {type(frame).__name__} cannot be read as an array ({error})") from error
    raise FrameError(f"frame: got {type(frame).__name__}, {_expected(signature)} as a numpy array")


def with_channel(frame: Any, signature: GraphSignature) -> Any:
    """A grey picture [H, W] as [H, W, 1] where the graph takes one channel of uint8; anything else as it is."""
    one = signature.dtype == "uint8" and signature.frame_shape[2:] == (1,)
    return frame[:, :, None] if one and isinstance(frame, np.ndarray) and frame.ndim == 2 else frame


def check_frame(frame: Any, signature: GraphSignature) -> np.ndarray:
    """Check one frame and return it C-contiguous; copied only where its memory layout demands it.

    Raises:
        FrameError: another type, shape or dtype, or float values outside [0, 1] (NaN included).
    """
    if (
        not isinstance(frame, np.ndarray)
        or frame.dtype != signature.dtype
        or frame.shape != signature.frame_shape
    ):
        got = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise FrameError(f"frame: got {got}, {_expected(signature)}; convert or resize it as in calibration")
    array = np.ascontiguousarray(frame)
    if signature.dtype == "float32" and not (array.min() >= 0.0 and array.max() <= 1.0):
        raise FrameError(
            f"frame: got values from {array.min()} to {array.max()}, expected [0, 1] without NaN; divide by 255"
        )
    return array


def check_image(frame: Any, signature: GraphSignature) -> np.ndarray:
    """Check a whole camera image that is still to be cropped: uint8 [any H, any W, C]. Raises: FrameError."""
    channels = signature.frame_shape[-1]
    wrong = (
        not isinstance(frame, np.ndarray)
        or frame.dtype != np.uint8
        or frame.ndim != 3
        or frame.shape[2] != channels
    )
    if signature.dtype != "uint8" or wrong:
        got = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise FrameError(
            f"frame with roi: got {got}, expected uint8 [H, W, {channels}] and a bundle that takes uint8"
        )
    return np.asarray(frame)


def cut(frame: np.ndarray, roi: Roi) -> np.ndarray:
    """The rectangle as a view. Raises: FrameError: empty, or not wholly inside the frame."""
    height, width = frame.shape[:2]
    if isinstance(roi, Roi):
        given = (roi.left, roi.top, roi.width, roi.height)
        if all(isinstance(side, (int, np.integer)) for side in given):
            # Python's integers: a detector's uint8 or int16 would overflow in the sums.
            left, top, wide, high = map(int, given)
            if min(left, top) >= 0 and min(wide, high) > 0 and left + wide <= width and top + high <= height:
                return frame[top : top + high, left : left + wide]
    raise FrameError(
        f"roi: got {roi!r}, expected Roi(left, top, width, height) in whole pixels, wholly inside the {width} x {height} frame"
    )


def resize(image: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """Antialiased linear resize of uint8 [H, W, C] to `size` (height, width), rounded to uint8.

    Make the frames of a calibration set of crops with this same function: a guarantee covers frames that came about
    in the way of the calibration frames.
    """
    height, width, channels = image.shape
    if height * width <= _SMALL:
        rows, columns = triangle_filter(height, size[0]), triangle_filter(width, size[1])
        small = np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns, optimize=True)
        return np.asarray(np.clip(np.rint(small), 0, 255), np.uint8)
    # Only the few rows and columns that have a weight are touched: of a 4K crop one in a hundred for each pixel.
    part = np.empty((size[0], width * channels))
    for row, (first, weights) in enumerate(_taps(triangle_filter(height, size[0]))):
        lines = image[first : first + len(weights)].reshape(len(weights), -1)
        np.dot(weights, lines.astype(np.float64), out=part[row])
    part = part.reshape(size[0], width, channels)
    resized = np.empty((size[0], size[1], channels))
    for column, (first, weights) in enumerate(_taps(triangle_filter(width, size[1]))):
        resized[:, column] = np.einsum("rwc,w->rc", part[:, first : first + len(weights)], weights)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def _taps(filter_matrix: np.ndarray) -> Iterator[Tuple[int, np.ndarray]]:
    """For each row of weights, where those begin that are not zero, and those."""
    for row in filter_matrix:
        used = np.flatnonzero(row)
        yield int(used[0]), row[used[0] : used[-1] + 1]


def _expected(signature: GraphSignature) -> str:
    return f"expected {signature.dtype} [{', '.join(map(str, signature.frame_shape))}]"
