"""Preprocessing and surrogate of the guarded tier as one module of two inputs, `frame` and `noise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from rrise.trainer.data.preprocess import Preprocess


class GuardedSurrogate(nn.Module):
    """frame uint8 [B, H, W, C] and noise float32 [B, C, h, w] in 8-bit pixel levels -> what the surrogate returns.

    The noise is added to the pixel levels before they are scaled, where the float32 sum is exact, so that all that
    follows is a function of the sum.
    """

    def __init__(self, preprocess: "Preprocess", network: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network

    def forward(self, frame: torch.Tensor, noise: torch.Tensor) -> object:
        return self.network(self.preprocess(frame, noise))
