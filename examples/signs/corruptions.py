"""What weather, optics and compression do to a frame: six corruptions at three severities, for the study on traffic signs.

`corrupt(frames, "fog", 2)` changes uint8 frames [n, H, W, C], C = 1 or 3, and gives uint8 frames of the same shape. The
strengths are those of this study and no standard. Everything is fixed by the arguments: the same call gives the same bytes.
Source of the idea: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions".
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

SEVERITIES = (1, 2, 3)


def fog(levels: np.ndarray, severity: int) -> np.ndarray:
    """Light scattered into the picture, uneven over it: the scene fades towards a bright field."""
    count, height, width, _ = levels.shape
    field = np.random.default_rng(severity).random((count, 4, 4)).astype(np.float32)
    field = np.stack([_enlarged(one, height, width) for one in field])[..., None]
    density = (0.3, 0.5, 0.7)[severity - 1] * (0.7 + 0.6 * field)
    return np.asarray(levels * (1 - density) + 0.85 * density)


def contrast(levels: np.ndarray, severity: int) -> np.ndarray:
    """Everything nearer to the mean of its frame."""
    mean = levels.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray(mean + (0.6, 0.35, 0.2)[severity - 1] * (levels - mean))


def dark(levels: np.ndarray, severity: int) -> np.ndarray:
    """Exposure too short by one, two and three stops."""
    return levels * 0.5**severity


def bright(levels: np.ndarray, severity: int) -> np.ndarray:
    """Exposure too long: highlights are clipped."""
    return levels * (1.5, 2.2, 3.3)[severity - 1]


def blur(levels: np.ndarray, severity: int) -> np.ndarray:
    """Out of focus: a Gaussian of 0.6, 1 and 1.6 pixels."""
    size = (0.6, 1.0, 1.6)[severity - 1]
    return _each(levels, lambda picture: picture.filter(ImageFilter.GaussianBlur(size)))


def jpeg(levels: np.ndarray, severity: int) -> np.ndarray:
    """Compressed at quality 40, 15 and 6."""

    def compressed(picture: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=(40, 15, 6)[severity - 1])
        return Image.open(stream, formats=["JPEG"])

    return _each(levels, compressed)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "fog": fog,
    "contrast": contrast,
    "dark": dark,
    "bright": bright,
    "blur": blur,
    "jpeg": jpeg,
}


def corrupt(frames: np.ndarray, name: str, severity: int) -> np.ndarray:
    """The frames under one corruption.

    Args:
        frames: uint8 [n, H, W, C].
        name: one of `CORRUPTIONS`. severity: 1, 2 or 3.

    Raises:
        ValueError: other frames, name or severity.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in (1, 3):
        raise ValueError(
            f"corrupt: got frames {frames.dtype} {list(frames.shape)}, expected uint8 [n, H, W, 1 or 3]"
        )
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(
            f"corrupt: got {name!r} at severity {severity}, expected one of {', '.join(CORRUPTIONS)} at 1, 2 or 3"
        )
    return _to_uint8(CORRUPTIONS[name](frames.astype(np.float32) / 255, severity))


def distance(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far each frame moved in L2, where a pixel is 0 to 1; float64 [n]. What certificates are compared with."""
    moved = (after.astype(np.float64) - before.astype(np.float64)) / 255
    return np.asarray(np.sqrt((moved**2).sum(axis=(1, 2, 3))))


def _to_uint8(levels: np.ndarray) -> np.ndarray:
    return np.asarray(np.round(np.clip(levels, 0, 1) * 255), np.uint8)


def _enlarged(field: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)


def _each(levels: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    frames = _to_uint8(levels)
    pictures = [Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame) for frame in frames]
    changed = [np.asarray(change(picture), np.float32) / 255 for picture in pictures]
    return np.stack(changed).reshape(levels.shape)
