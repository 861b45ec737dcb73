"""Camera encodings to the encoding of a bundle: colour order, a fourth channel, grey, YUV 4:2:2, NV12 and JPEG.

The YUV arithmetic is that of OpenCV (BT.601, limited range, 20-bit fixed point), the grey that of Pillow, so that
frames decoded here are those of a calibration set that was decoded with either.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple, Union

import numpy as np

from rrise.calibration.errors import ImageError
from rrise.calibration.images.files import MAX_PIXELS, open_image
from rrise.calibration.images.jpeg import check_decoded, read_jpeg
from rrise.calibration.requirements import install

Pixels = Union[np.ndarray, bytes, bytearray, memoryview]

PLAIN = {"rgb8": 3, "bgr8": 3, "mono8": 1}
"""Encodings that a graph can take, with their channels."""

WITH_ALPHA = {"rgba8": "rgb8", "bgra8": "bgr8"}
"""Four channels of a camera or simulator, of which the fourth is dropped: padding, whatever its values."""

PACKED = ("yuv422", "yuv422_yuy2", "nv12", "jpeg", "jpeg_swapped")
"""Encodings that are decoded first: UYVY and YUYV as uint8 [H, W, 2], NV12 as uint8 [H * 3 / 2, W], JPEG as bytes
(swapped: red and blue lie exchanged in it, as OpenCV's encoder leaves them that was given RGB)."""


def pixels_as(pixels: Pixels, encoding: str, target: str) -> np.ndarray:
    """Pixels of one encoding as uint8 [H, W, C] of another.

    Args:
        pixels: uint8 [H, W, C] (mono8 also [H, W]), or as `PACKED` says.
        encoding: what they are.
        target: "rgb8", "bgr8" or "mono8".

    Raises:
        ImageError: an unknown encoding, or pixels that are not of it.
    """
    if target not in PLAIN:
        raise ImageError(f"encoding: got {target!r} to convert to, expected one of {', '.join(PLAIN)}")
    if encoding in PACKED:
        pixels, encoding = _DECODERS[encoding](pixels), "rgb8"
    if encoding in WITH_ALPHA:
        pixels, encoding = _without_alpha(pixels, encoding), WITH_ALPHA[encoding]
    if encoding not in PLAIN:
        raise ImageError(f"encoding: got {encoding!r}, expected one of {', '.join(known_encodings())}")
    array = _image(pixels, encoding)
    if encoding == target:
        return array
    if encoding == "mono8":
        return np.repeat(array, 3, axis=2)
    if target == "mono8":
        return grey(array if encoding == "rgb8" else array[:, :, ::-1])
    return array[:, :, ::-1]


def same_values(encoding: str, target: str) -> bool:
    """Whether `pixels_as` only changes the order of channels or drops a fourth, so that L2 distances stay what they are."""
    plain = WITH_ALPHA.get(encoding, encoding)
    return plain == target or {plain, target} == {"rgb8", "bgr8"}


def grey(rgb: np.ndarray) -> np.ndarray:
    """Luma of BT.601 in 16-bit fixed point, rounded as Pillow does: uint8 [H, W, 3] to [H, W, 1]."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((rgb.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)[:, :, None]


def _image(pixels: Pixels, encoding: str) -> np.ndarray:
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        got = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ImageError(f"{encoding}: got {got}, expected uint8 [H, W, {PLAIN[encoding]}]")
    array = pixels[:, :, None] if pixels.ndim == 2 and encoding == "mono8" else pixels
    if array.ndim != 3 or array.shape[2] != PLAIN[encoding] or not array.size:
        raise ImageError(f"{encoding}: got shape {list(pixels.shape)}, expected [H, W, {PLAIN[encoding]}]")
    return array


def _without_alpha(pixels: Pixels, encoding: str) -> np.ndarray:
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 3
        or pixels.shape[2] != 4
    ):
        raise ImageError(f"{encoding}: got {_shape(pixels)}, expected uint8 [H, W, 4]")
    return pixels[:, :, :3]


def _yuv422(first_luma: int) -> Callable[[Pixels], np.ndarray]:
    def decode(pixels: Pixels) -> np.ndarray:
        array = pixels if isinstance(pixels, np.ndarray) else np.zeros(0)
        if (
            array.dtype != np.uint8
            or array.ndim != 3
            or array.shape[2] != 2
            or not array.size
            or array.shape[1] % 2
        ):
            raise ImageError(f"yuv422: got {_shape(pixels)}, expected uint8 [H, even W, 2]")
        chroma = np.repeat(array[:, :, 1 - first_luma].reshape(array.shape[0], -1, 2), 2, axis=1)
        return _to_rgb(array[:, :, first_luma], chroma[:, :, 0], chroma[:, :, 1])

    return decode


def _nv12(pixels: Pixels) -> np.ndarray:
    array = pixels if isinstance(pixels, np.ndarray) else np.zeros(0)
    if (
        array.dtype != np.uint8
        or array.ndim != 2
        or not array.size
        or array.shape[0] % 3
        or array.shape[1] % 2
    ):
        raise ImageError(f"nv12: got {_shape(pixels)}, expected uint8 [H * 3 / 2, W] with even H and W")
    height = array.shape[0] // 3 * 2
    chroma = array[height:].reshape(height // 2, -1, 2).repeat(2, axis=0).repeat(2, axis=1)
    return _to_rgb(array[:height], chroma[:, :, 0], chroma[:, :, 1])


def _to_rgb(luma: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    """BT.601 limited range in the 20-bit fixed point of OpenCV: uint8 planes [H, W] to uint8 [H, W, 3]."""
    y = np.maximum(luma.astype(np.int32) - 16, 0) * 1220542 + (1 << 19)
    u, v = blue.astype(np.int32) - 128, red.astype(np.int32) - 128
    planes = (y + 1673527 * v, y - 852492 * v - 409993 * u, y + 2116026 * u)
    return np.clip(np.stack([plane >> 20 for plane in planes], axis=2), 0, 255).astype(np.uint8)


def _jpeg(pixels: Pixels) -> np.ndarray:
    data = pixels.tobytes() if isinstance(pixels, np.ndarray) else bytes(pixels)
    if data[:2] != b"\xff\xd8":
        raise ImageError(
            f"jpeg: got {_shape(pixels)} that does not begin like a JPEG file, expected its bytes"
        )
    try:
        import PIL  # noqa: F401 - only whether it is there
    except ImportError:
        return _jpeg_opencv(data)
    try:
        return open_image(data, "RGB", formats=["JPEG"])
    except ImageError as error:
        raise ImageError(f"jpeg: cannot be decoded ({error}); check the link to the camera") from error


def _jpeg_opencv(data: bytes) -> np.ndarray:
    try:
        import cv2
    except ImportError as error:
        raise ImageError(f"jpeg: needs Pillow or OpenCV: {install('pillow')}") from error
    try:
        jpeg = read_jpeg(data)
        if jpeg.width * jpeg.height > MAX_PIXELS:
            raise ImageError(f"got {jpeg.width} x {jpeg.height} pixels, expected at most {MAX_PIXELS}")
        # OpenCV fills up what is missing with grey, as Pillow does; the check needs the picture before it is turned.
        plain = _opencv(cv2, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        check_decoded(jpeg, plain)
        return _opencv(cv2, data, cv2.IMREAD_COLOR) if b"Exif\0\0" in data[: 1 << 16] else plain
    except ImageError as error:
        raise ImageError(f"jpeg: cannot be decoded ({error}); check the link to the camera") from error


def _opencv(cv2: Any, data: bytes, flags: int) -> np.ndarray:
    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ImageError("OpenCV cannot decode it")
    return np.asarray(image)[:, :, ::-1]


def _shape(pixels: Pixels) -> str:
    return (
        f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else f"{len(pixels)} bytes"
    )


_DECODERS: Dict[str, Callable[[Pixels], np.ndarray]] = {
    "yuv422": _yuv422(first_luma=1),
    "yuv422_yuy2": _yuv422(first_luma=0),
    "nv12": _nv12,
    "jpeg": _jpeg,
    "jpeg_swapped": lambda pixels: _jpeg(pixels)[:, :, ::-1],
}


def known_encodings() -> Tuple[str, ...]:
    """Every encoding that `pixels_as` takes."""
    return (*PLAIN, *WITH_ALPHA, *PACKED)
