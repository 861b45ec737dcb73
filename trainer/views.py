"""Class shares of views by fresh noisy evaluations of the base classifier: targets drawn while training."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrise.trainer.blackbox import labels_of
from rrise.trainer.workspace import Workspace


def base_labels(workspace: Workspace, base: nn.Module) -> Callable[[Tensor], Tensor]:
    """The base classifier from inputs float32 [B, C, h, w] to classes int64 [B], in the precision of the targets."""
    return labels_of(base, len(workspace.dataset.class_names), workspace.config.targets.dtype)


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
            many = views.repeat(num_samples, 1, 1, 1)
            found = labels(many + sigma * torch.randn(many.shape, generator=generator, device=many.device))
            shares = F.one_hot(found, num_classes).float().view(num_samples, len(views), -1).mean(0)
        return shares.clone()

    return shares_of
