"""Blended views, on whatever device the frames are."""

from __future__ import annotations

import torch
from torch import Tensor


def mixing_weights(count: int, share: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """For about `share` of `count` images a weight in [0, 1/2] for their partner, 0 for the others; float32 [count]."""
    weight = 0.5 * torch.rand(count, generator=generator, device=device)
    chosen = torch.rand(count, generator=generator, device=device) < share
    return torch.where(chosen, weight, torch.zeros_like(weight))


def blend(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Blend about `share` of x, float32 [B, C, h, w], with another image of the batch."""
    if not share:
        return x
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    weight = mixing_weights(len(x), share, generator, x.device)
    return torch.lerp(x, x[partner], weight[:, None, None, None])
