"""Preprocessed frames on demand: memory holds the frames at most, and float tensors only of what is being used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rrise.trainer.data.cache import InputsFile
from rrise.trainer.data.frames import Frames
from rrise.trainer.data.preprocess import Preprocess

STATISTICS_FRAMES = 1024
"""Frames from which mean and standard deviation are taken; more would not move them visibly."""


class Inputs:
    """Frames uint8 [n, H, W, C] seen as tensors float32 [n, C, h, w] in [0, 1].

    digests: S64 [n] of the frames, where they are known.

    >>> from rrise.trainer.data.preprocess import Preprocess
    >>> inputs = Inputs(np.zeros((5, 8, 8, 1), np.uint8), Preprocess((8, 8, 1), "mono8"))
    >>> len(inputs), inputs.shape, tuple(inputs[torch.tensor([0, 3])].shape)
    (5, (1, 8, 8), (2, 1, 8, 8))
    """

    def __init__(self, frames: Frames, preprocess: Preprocess, digests: np.ndarray | None = None) -> None:
        self._frames, self._preprocess, self.digests = frames, preprocess, digests

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one input."""
        return self._preprocess.output_shape

    def __getitem__(self, index: Tensor) -> Tensor:
        """Inputs float32 [B, C, h, w] of frame indices int64 [B]."""
        with torch.no_grad():
            inputs: Tensor = self._preprocess(torch.from_numpy(self._frames[index.numpy()]))
        return inputs

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, float32 [C], over frames spread through the whole set."""
        index = torch.linspace(0, len(self) - 1, min(len(self), STATISTICS_FRAMES)).long()
        total, squares, count = torch.zeros(self.shape[0]).double(), torch.zeros(self.shape[0]).double(), 0
        for part in index.split(64):
            sample = self[part].double()
            total += sample.sum((0, 2, 3))
            squares += sample.square().sum((0, 2, 3))
            count += sample.numel() // self.shape[0]
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0) * (count / max(count - 1, 1))
        return mean.float(), variance.sqrt().float()


class StoredInputs(Inputs):
    """Inputs that were preprocessed once, read row by row from the workspace's cache."""

    def __init__(
        self, file: InputsFile, rows: np.ndarray, digests: np.ndarray, shape: tuple[int, int, int]
    ) -> None:
        self._file, self._rows, self.digests, self._shape = file, rows, digests, shape

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def __getitem__(self, index: Tensor) -> Tensor:
        return self._file.read(self._rows[index.numpy()])
