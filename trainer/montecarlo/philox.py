"""Counter-based Gaussian noise in torch operations: each number is a pure function of (key, frame, sample, element).

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") and the Box-Muller transform. A
device's own generator gives other numbers on another GPU model and in batches of another size; this one does not, and
a captured graph replays new noise because the counters are its inputs. `torch.compile` makes it one fused kernel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Words(NamedTuple):
    """Four tensors of 32-bit words, held in int64."""

    w0: Tensor
    w1: Tensor
    w2: Tensor
    w3: Tensor


def philox(counter: Words, key: Tensor) -> Words:
    """Ten rounds of Philox-4x32 on int64 tensors that hold 32-bit words (and broadcast together); key: int64 [2]."""
    c0, c1, c2, c3 = counter
    k0, k1 = key[0], key[1]
    for _ in range(_ROUNDS):
        # The product of two 32-bit words wraps around as int64; its bits are the right ones all the same.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return Words(c0, c1, c2, c3)


def normals(frame: Tensor, sample: Tensor, numel: int, key: Tensor) -> Tensor:
    """Standard normal numbers, float32 [B, numel]; row b belongs to (frame[b], sample[b]), both int64 [B]. key: int64 [2]."""
    quads = -(-numel // 4)
    element = torch.arange(quads, device=frame.device)[None, :]
    words = philox(Words(element, sample[:, None], frame[:, None], torch.zeros_like(element)), key)
    parts = [*_box_muller(words.w0, words.w1), *_box_muller(words.w2, words.w3)]
    return torch.cat(parts, dim=1)[:, :numel]


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals of two 32-bit words; |z| reaches 6.7."""
    radius = torch.sqrt(-2.0 * torch.log((first.to(torch.float32) + 0.5) * 2.0**-32))
    angle = second.to(torch.float32) * (2.0 * math.pi * 2.0**-32)
    return radius * torch.cos(angle), radius * torch.sin(angle)
