"""Views of frames while training: augmented, blended, noisy; and class shares that are drawn on them as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rrise.trainer.data.augment import augment


@dataclass(frozen=True)
class View:
    """How a frame is changed before the network sees it.

    shift, flip: see `rrise.trainer.data.augment.augment`. mix: share of the frames that are blended with another one of
    the batch, of which up to half shows.
    """

    shift: int = 0
    flip: bool = False
    mix: float = 0.0

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """New views float32 [B, C, h, w] of frames of that shape."""
        return self.with_shares(x, None, generator)[0]

    def with_shares(
        self, x: Tensor, shares: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The same, and class shares float32 [B, K] blended like their frames."""
        x = augment(x, self.shift, self.flip, generator)
        if not self.mix:
            return x, shares
        partner = torch.randperm(len(x), generator=generator, device=x.device)
        weight = _mixing_weights(len(x), self.mix, generator, x.device)
        x = torch.lerp(x, x[partner], weight[:, None, None, None])
        return x, None if shares is None else torch.lerp(shares, shares[partner], weight[:, None])


def _mixing_weights(count: int, share: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """For about `share` of `count` images a weight in [0, 1/2] for their partner, 0 for the others; float32 [count]."""
    weight = 0.5 * torch.rand(count, generator=generator, device=device)
    chosen = torch.rand(count, generator=generator, device=device) < share
    return torch.where(chosen, weight, torch.zeros_like(weight))


def noisy(x: Tensor, sigma: float, generator: torch.Generator, copies: int = 1) -> Tensor:
    """`copies` of x, float32 [copies * B, C, h, w], copy after copy, each with noise of its own; summed in float32."""
    if not sigma:
        return x if copies == 1 else x.repeat(copies, 1, 1, 1)
    noise = torch.randn((copies * len(x), *x.shape[1:]), generator=generator, device=x.device)
    noise.view(copies, *x.shape).mul_(sigma).add_(x)
    return noise


def fresh_shares(
    labels: Callable[[Tensor], Tensor],
    num_classes: int,
    sigma: float,
    num_samples: int,
    generator: torch.Generator,
) -> Callable[[Tensor], Tensor]:
    """A function from views float32 [B, C, H, W] to class shares float32 [B, K] over `num_samples` noisy evaluations.

    At fixed weights of the surrogate, the cross-entropy to these shares and its gradient are unbiased for the
    cross-entropy to the true class probabilities, for any number of samples.

    labels: the base classifier, from inputs to classes int64 [B].
    """

    def shares_of(views: Tensor) -> Tensor:
        with torch.inference_mode():
            found = labels(noisy(views, sigma, generator, num_samples))
            shares = F.one_hot(found, num_classes).float().view(num_samples, len(views), -1).mean(0)
        return shares.clone()

    return shares_of
