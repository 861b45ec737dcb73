"""A surrogate that also asks the base classifier about noisy copies of the frame, with noise that is fixed in the network.

k copies are a dial between one pass and Monte Carlo. What comes out is a deterministic function of the frame, fixed before
any calibration count is seen, so every promise holds for it as for a single network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FIELD_NUMBERS = 1 << 20
"""Numbers of noise that a network may hold (4 MiB in float32); further copies use cyclic shifts of the same planes."""
COPY_GRID = 2.0**-12
"""Noise is rounded to multiples of this, so that the last bits of a machine's own logarithm do not decide."""
PASS_NUMBERS = 1 << 20
"""Numbers in one pass of the base classifier outside exported graphs, which have a single pass."""


def copies_in(spec: Mapping[str, Any]) -> int:
    """How many copies a network of this spec asks about, 0 without any; beneath a difficulty head, too."""
    while spec.get("kind") == "difficulty":
        spec = spec["network"]
    return int(spec["copies"]) if spec.get("kind") == "copies" else 0


class WithCopies(nn.Module):
    """A surrogate and k passes of the base classifier on frame + fixed noise: float32 [B, C, H, W] -> [B, K] log-probabilities.

    Each class gets the logarithm of (1 - weight) * (the surrogate's probability) + weight * (mean probability of the copies),
    times `power`, where the surrogate's logits are multiplied by `temperature` and those of the copies by `sharpness`: sharp
    ones are votes, but without the jumps at ties, which would make every rounding visible. The four numbers are
    fitted on the tuning split.

    noise: float32 [planes, C, H, W], sigma times standard normal numbers of a stream that no Monte Carlo draw uses. Copy j is
    plane j mod planes, shifted cyclically by an offset of its own from the second round on.
    """

    noise: Tensor
    temperature: Tensor
    sharpness: Tensor
    weight: Tensor
    power: Tensor

    def __init__(
        self,
        network: nn.Module,
        base: nn.Module,
        copies: int,
        shape: tuple[int, int, int],
        sigma: float,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.base, self.copies = network, base, copies
        planes, self._shifts = fixed_noise(copies, shape, seed)
        self.register_buffer("noise", torch.from_numpy(np.float32(sigma) * planes))
        for name, value in (("temperature", 1.0), ("sharpness", 1.0), ("weight", 0.5), ("power", 1.0)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.network(x), self.answers(x))

    def answers(self, x: Tensor) -> Tensor:
        """The base classifier's logits on every copy, [B, k, K]."""
        fields = self.fields()
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            found: Tensor = self.base((x[:, None] + fields[None]).flatten(0, 1))
        else:
            # Noisy rows are made as they are needed: those of 64 frames of 224 pixels with 256 copies take 10 GB.
            rows = torch.cartesian_prod(torch.arange(len(x)), torch.arange(self.copies)).to(x.device)
            size = max(PASS_NUMBERS // x[0].numel(), 1)
            found = torch.cat([self.base(x[part[:, 0]] + fields[part[:, 1]]) for part in rows.split(size)])
        return found.reshape(len(x), self.copies, -1)

    def fields(self) -> Tensor:
        """The noise of every copy, [k, C, H, W]."""
        rounds = [
            torch.roll(self.noise, shift, (2, 3)) if any(shift) else self.noise for shift in self._shifts
        ]
        return torch.cat(rounds)[: self.copies] if len(rounds) > 1 else self.noise

    def pooled(self, alone: Tensor, copies: Tensor) -> Tensor:
        """The answer from the surrogate's logits [B, K] and the base classifier's [B, k, K]."""
        return pool(alone, copies, self.temperature, self.sharpness, self.weight, self.power)


def pool(
    alone: Tensor, copies: Tensor, temperature: Tensor, sharpness: Tensor, weight: Tensor, power: Tensor
) -> Tensor:
    """Log-probabilities (up to a constant) [B, K] from logits [B, K] and those of copies [B, k, K]; see `WithCopies`."""
    first = (alone * temperature).log_softmax(1) + (1 - weight).log()
    rest = (copies * sharpness).log_softmax(2) + (weight / copies.shape[1]).log()
    parts = torch.cat([first[:, None], rest], 1)
    # Written out: not every runtime takes the maximum off before it exponentiates.
    top = parts.amax(1)
    return (top + (parts - top[:, None]).exp().sum(1).log()) * power


def fixed_noise(
    copies: int, shape: tuple[int, int, int], seed: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Standard normal noise, float32 [planes, C, H, W], and the cyclic shift (down, right) of each round of planes.

    The same numbers on every machine. Shifts of one round differ from those of all others, so no two copies see the same.
    """
    channels, height, width = shape
    planes = max(1, min(copies, FIELD_NUMBERS // (channels * height * width)))
    rounds = -(-copies // planes)
    # The streams of Monte Carlo are named by a number first: none of them can have this key.
    key = np.frombuffer(hashlib.sha256(f"rrise copies/{seed}".encode()).digest()[:16], "<u8")
    generator = np.random.Generator(np.random.Philox(key=key))
    field = generator.standard_normal((planes, *shape))
    places = np.arange(1, height * width)
    chosen = generator.choice(places, rounds - 1, replace=rounds - 1 > len(places)).tolist()
    return (np.round(field / COPY_GRID) * COPY_GRID).astype(np.float32), [
        divmod(int(place), width) for place in (0, *chosen)
    ]
