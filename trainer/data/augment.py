"""Augmented views: random shifts and mirror images of preprocessed frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(x: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """A random view of each of x, float32 [B, C, h, w].

    shift: each image moves by up to so many pixels in both directions; border pixels are repeated outwards.
    flip: mirror each image left to right with probability 1/2.
    """
    if flip:
        chosen = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        x = torch.where(chosen[:, None, None, None], x.flip(3), x)
    if shift:
        x = _shifted(x, shift, generator)
    return x


def _shifted(x: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    count, channels, height, width = x.shape
    moves = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator, device=x.device)
    padded = F.pad(x, (shift,) * 4, mode="replicate")
    rows = (torch.arange(height, device=x.device) + moves[0])[:, None, :, None]
    columns = (torch.arange(width, device=x.device) + moves[1])[:, None, None, :]
    image = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[image, channel, rows, columns]
