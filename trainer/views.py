"""Class shares of views by fresh noisy evaluations of the base classifier: targets drawn while training."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fresh_shares(
    base: nn.Module, sigma: float, num_samples: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """A function from views float32 [B, C, H, W] to class shares float32 [B, K] over `num_samples` noisy evaluations.

    At fixed weights of the surrogate, the cross-entropy to these shares and its gradient are unbiased for the
    cross-entropy to the true class probabilities, for any number of samples.
    """

    def shares_of(views: Tensor) -> Tensor:
        with torch.inference_mode():
            many = views.repeat(num_samples, 1, 1, 1)
            logits = base(many + sigma * torch.randn(many.shape, generator=generator))
            hits = F.one_hot(logits.argmax(1), logits.shape[1]).float()
            shares = hits.view(num_samples, len(views), -1).mean(0)
        return shares.clone()

    return shares_of
