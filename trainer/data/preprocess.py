"""From a camera frame to the tensor that is smoothed: one float module, the same in training and in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.images.resizing import triangle_filter
from rrise.calibration.promise.guarded import GRID
from rrise.trainer.errors import TrainerError

STEPS = 1.0 / GRID
"""Steps of a pixel level: the inverse of `rrise.calibration.promise.guarded.GRID`."""

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}


class Preprocess(nn.Module):
    """uint8 [B, H, W, C] -> float32 [B, C, h, w] in [0, 1]: cast, crop, resize, scale; nothing is rounded back.

    Args:
        frame_shape: (H, W, C) of a frame.
        encoding: "rgb8", "bgr8" (reversed, so that the network always sees RGB) or "mono8".
        crop: (top, left, height, width) in pixels, or None.
        size: (h, w) after resizing with an antialiased triangle filter, or None. The filter equals
            `torch.nn.functional.interpolate(mode="bilinear", antialias=True)`, written as two fixed matrix
            products, which every runtime computes alike and whose norm is known.
        grid: round resized pixel values to multiples of 2^-10 levels. The guarded tier needs it: its noise lies on that
            grid, so that the float32 sum of both is exact. Without a resize pixel values are whole anyway.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        encoding: str,
        crop: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] | None = None,
        grid: bool = False,
    ) -> None:
        super().__init__()
        height, width, channels = frame_shape
        if CHANNELS.get(encoding) != channels:
            raise TrainerError(
                f"encoding {encoding!r} with frames {list(frame_shape)}: expected rgb8 or bgr8 with 3 channels, "
                "mono8 with 1; set [preprocess] encoding"
            )
        top, left, crop_height, crop_width = crop or (0, 0, height, width)
        if (
            min(crop_height, crop_width) < 1
            or min(top, left) < 0
            or top + crop_height > height
            or left + crop_width > width
        ):
            raise TrainerError(
                f"crop (top, left, height, width) = {list(crop or ())}: expected a part of the {height}x{width} frame"
            )
        if size is not None and min(size) < 1:
            raise TrainerError(f"size (height, width) = {list(size)}: expected positive numbers")
        self.frame_shape, self.encoding = frame_shape, encoding
        self.crop = (top, left, crop_height, crop_width)
        self.size = size or (crop_height, crop_width)
        self.grid = grid and self.size != (crop_height, crop_width)
        rows = triangle_filter(crop_height, self.size[0])
        columns = triangle_filter(crop_width, self.size[1])
        self.register_buffer("rows", torch.from_numpy(rows.astype(np.float32)), persistent=False)
        self.register_buffer(
            "columns", torch.from_numpy(columns.T.astype(np.float32).copy()), persistent=False
        )

    def forward(self, frame: Tensor, noise: Tensor | None = None) -> Tensor:
        """float32 [B, C, h, w] in [0, 1] of uint8 [B, H, W, C].

        noise: float32 [B, C, h, w] in pixel levels, added before scaling (guarded tier); see
            `rrise.calibration.promise.guarded.NoiseSource`.
        """
        levels = self.levels(frame)
        return (levels if noise is None else levels + noise) * (1.0 / 255.0)

    def levels(self, frame: Tensor) -> Tensor:
        """The same in pixel levels 0..255, before scaling."""
        top, left, height, width = self.crop
        pixels = frame.to(torch.float32).permute(0, 3, 1, 2)
        pixels = pixels[:, :, top : top + height, left : left + width]
        if self.encoding == "bgr8":
            pixels = pixels.flip(1)
        if self.size[0] != height:
            pixels = torch.matmul(self.rows, pixels)
        if self.size[1] != width:
            pixels = torch.matmul(pixels, self.columns)
        return torch.round(pixels * STEPS) * (1.0 / STEPS) if self.grid else pixels

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the tensor that noise is added to and radii are measured in."""
        return (self.frame_shape[2], *self.size)

    @property
    def resizes(self) -> bool:
        """Whether pixel values are averaged, so that levels are no longer whole numbers."""
        return self.size != self.crop[2:]

    def operator_norm(self) -> float:
        """Largest factor by which an L2 change of the frame (in 1/255 units) can grow in the output.

        Crop has norm 1 and the resize is a Kronecker product, so its norm is the product of the two norms.
        """
        rows, columns = self.rows.double().cpu().numpy(), self.columns.double().cpu().numpy()
        norms = [
            float(np.linalg.norm(matrix, 2)) if changed else 1.0
            for matrix, changed in (
                (rows, self.size[0] != self.crop[2]),
                (columns, self.size[1] != self.crop[3]),
            )
        ]
        return norms[0] * norms[1]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs to rebuild the module."""
        return {
            "frame_shape": list(self.frame_shape),
            "encoding": self.encoding,
            "crop": list(self.crop),
            "size": list(self.size),
            **({"grid": True} if self.grid else {}),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Preprocess:
        height, width, channels = value["frame_shape"]
        top, left, crop_height, crop_width = value["crop"]
        rows, columns = value["size"]
        shape, crop = (height, width, channels), (top, left, crop_height, crop_width)
        return Preprocess(
            shape, value["encoding"], crop, (rows, columns), grid=bool(value.get("grid", False))
        )
