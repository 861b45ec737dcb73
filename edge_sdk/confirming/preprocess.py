"""The bundle's preprocessing in numpy: from a camera frame to the tensor that is smoothed, without a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from rrise.calibration.images.resizing import triangle_filter
from rrise.calibration.promise.guarded import GRID
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.formats.manifest import Manifest

_STEPS = np.float32(1.0 / GRID)
_KNOWN = {"frame_shape", "encoding", "crop", "size", "grid", "operator_norm"}
_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}


@dataclass(frozen=True)
class FramePreprocess:
    """uint8 [H, W, C] -> float32 [C, h, w] in [0, 1], as `rrise.trainer.data.preprocess` does it, to within float32 rounding.

    Attributes:
        frame_shape: (H, W, C). encoding: "rgb8", "bgr8" (reversed) or "mono8".
        crop: (top, left, height, width). size: (h, w). grid: round pixel levels to multiples of 2^-10.
    """

    frame_shape: Tuple[int, int, int]
    encoding: str
    crop: Tuple[int, int, int, int]
    size: Tuple[int, int]
    grid: bool

    @classmethod
    def of(cls, manifest: Manifest) -> "FramePreprocess":
        """From a bundle's manifest.

        Raises:
            EdgeError: the bundle takes no uint8 frames, or its preprocessing has a step that is not known here: an
                audit of another tensor than the smoothed one would say nothing.
        """
        value = manifest.preprocessing
        unknown = sorted(set(value) - _KNOWN)
        try:
            if unknown or manifest.input.dtype != "uint8":
                raise ValueError(f"{manifest.input.dtype} frames, unknown entries {unknown}")
            height, width, channels = (int(side) for side in value["frame_shape"])
            top, left, crop_height, crop_width = (int(side) for side in value["crop"])
            rows, columns = (int(side) for side in value["size"])
            made = cls(
                (height, width, channels),
                str(value["encoding"]),
                (top, left, crop_height, crop_width),
                (rows, columns),
                bool(value.get("grid", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EdgeError(
                f"audit: the bundle's preprocessing cannot be repeated here ({error}), expected crop and resize of uint8"
                " frames; audit elsewhere and count with `record_audit`"
            ) from error
        inside = 0 <= top <= height - crop_height and 0 <= left <= width - crop_width
        if (
            made.frame_shape != manifest.input.frame_shape
            or made.encoding != manifest.input.encoding
            or _CHANNELS.get(made.encoding) != channels
            or not inside
            or min(crop_height, crop_width, rows, columns) < 1
        ):
            raise EdgeError(
                f"audit: the preprocessing of {made.encoding} {list(made.frame_shape)} does not fit the bundle's frames"
                f" {manifest.input.encoding} {list(manifest.input.frame_shape)}; export the bundle again"
            )
        return made

    @property
    def output_shape(self) -> Tuple[int, int, int]:
        """(C, h, w) of the tensor that radii are measured in."""
        return (self.frame_shape[2], *self.size)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """float32 [C, h, w] of uint8 [H, W, C]."""
        top, left, height, width = self.crop
        pixels = frame[top : top + height, left : left + width].astype(np.float32).transpose(2, 0, 1)
        if self.encoding == "bgr8":
            pixels = pixels[::-1]
        if self.size[0] != height:
            pixels = triangle_filter(height, self.size[0]).astype(np.float32) @ pixels
        if self.size[1] != width:
            pixels = pixels @ triangle_filter(width, self.size[1]).T.astype(np.float32)
        if self.grid and self.size != (height, width):
            pixels = np.rint(pixels * _STEPS) / _STEPS
        return np.ascontiguousarray(pixels * np.float32(1.0 / 255.0))
