"""Preprocessed frames on demand: memory holds the uint8 frames, and float tensors only of what is being used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rrise.trainer.data.preprocess import Preprocess

STATISTICS_FRAMES = 1024
"""Frames from which mean and standard deviation are taken; more would not move them visibly."""


class Inputs:
    """Frames uint8 [n, H, W, C] seen as tensors float32 [n, C, h, w] in [0, 1].

    >>> from rrise.trainer.data.preprocess import Preprocess
    >>> inputs = Inputs(np.zeros((5, 8, 8, 1), np.uint8), Preprocess((8, 8, 1), "mono8"))
    >>> len(inputs), inputs.shape, tuple(inputs[torch.tensor([0, 3])].shape)
    (5, (1, 8, 8), (2, 1, 8, 8))
    """

    def __init__(self, frames: np.ndarray, preprocess: Preprocess) -> None:
        self._frames, self._preprocess = frames, preprocess

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one input."""
        return self._preprocess.output_shape

    def __getitem__(self, index: Tensor) -> Tensor:
        """Inputs float32 [B, C, h, w] of frame indices int64 [B]."""
        with torch.no_grad():
            return self._preprocess(torch.from_numpy(self._frames[index.numpy()]))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, float32 [C], over frames spread through the whole set."""
        index = torch.linspace(0, len(self) - 1, min(len(self), STATISTICS_FRAMES)).long()
        sample = self[index]
        return sample.mean((0, 2, 3)), sample.std((0, 2, 3))
