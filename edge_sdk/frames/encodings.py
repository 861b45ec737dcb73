"""Camera encodings to the encoding of a bundle; the conversions are those that training frames of recordings go through."""

from __future__ import annotations

import numpy as np

from rrise.calibration.errors import ImageError
from rrise.calibration.images.encodings import (
    PACKED,
    PLAIN,
    WITH_ALPHA,
    Pixels,
    grey,
    known_encodings,
    pixels_as,
    same_values,
)
from rrise.edge_sdk.errors import FrameError

__all__ = ["PACKED", "PLAIN", "WITH_ALPHA", "convert_encoding", "grey", "known_encodings", "same_values"]


def convert_encoding(pixels: Pixels, encoding: str, target: str) -> np.ndarray:
    """Pixels of one encoding as uint8 [H, W, C] of another; see `rrise.calibration.images.encodings.pixels_as`.

    Raises:
        FrameError: an unknown encoding, or pixels that are not of it.
    """
    try:
        return pixels_as(pixels, encoding, target)
    except ImageError as error:
        raise FrameError(str(error)) from error
