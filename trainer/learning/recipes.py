"""What is learned, each recipe a few lines: base classifiers under noise, and surrogates from counts or fresh draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrise.trainer.learning.engine import Batch, Forward, LossFunction
from rrise.trainer.learning.losses import consistency_loss as consistency_loss
from rrise.trainer.learning.losses import soft_loss
from rrise.trainer.learning.views import View, fresh_shares, noisy

RAMP = 0.25
"""Share of a training over which the consistency term grows to its full strength."""


def gaussian(labels: Tensor, view: View, sigma: float, copies: int = 1) -> LossFunction:
    """Cross-entropy at `copies` noisy copies of each augmented view (Cohen et al. 2019, section 3.3).

    labels: int64 [n] of all training frames, on the device.
    """

    def objective(forward: Forward, batch: Batch) -> Tensor:
        views = view(batch.frames, batch.generator)
        logits = forward(noisy(views, sigma, batch.generator, copies))
        return F.cross_entropy(logits, labels[batch.index].repeat(copies))

    return objective


def consistency(
    labels: Tensor, view: View, sigma: float, copies: int, strength: float, entropy: float
) -> LossFunction:
    """The same, with what the copies disagree in as a second term: it widens the margin that smoothing certifies.

    strength: lambda, reached after the first quarter. entropy: eta. See `losses.consistency_loss`.
    """

    def objective(forward: Forward, batch: Batch) -> Tensor:
        views = view(batch.frames, batch.generator)
        logits = forward(noisy(views, sigma, batch.generator, copies))
        now = strength * min(batch.progress / RAMP, 1.0)
        return consistency_loss(logits.view(copies, len(views), -1), labels[batch.index], now, entropy)

    return objective


@dataclass(frozen=True)
class Teaching:
    """How a surrogate is taught.

    view: of its frames. guard: standard deviation of the noise on its own input (guarded tier; its class shares stay
    those of the view without it). loss: see `losses.soft_loss`.
    """

    view: View
    guard: float = 0.0
    loss: str = "ce"


def stored(
    counts: Tensor, how: Teaching, teacher: nn.Module | None = None, teacher_share: float = 0.0
) -> LossFunction:
    """Class counts that were drawn before, float32 [n, K] on the device: the paper's way.

    They belong to the frames as they are; a view that is augmented or blended keeps its frame's counts, which is an
    approximation that calibration pays for. teacher: a network whose probabilities at the view itself are mixed in with weight
    `teacher_share`.
    """
    shares = counts / counts.sum(1, keepdim=True)
    samples = int(counts[0].sum()) if len(counts) else 0

    def objective(forward: Forward, batch: Batch) -> Tensor:
        views, wanted = how.view.with_shares(batch.frames, shares[batch.index], batch.generator)
        assert wanted is not None
        if teacher is not None:
            with torch.no_grad():
                wanted = torch.lerp(wanted, teacher(views).float().softmax(1), teacher_share)
        logits = forward(noisy(views, how.guard, batch.generator))
        return soft_loss(how.loss, logits, wanted, samples)

    return objective


def fresh(
    labels: Callable[[Tensor], Tensor], num_classes: int, sigma: float, num_samples: int, how: Teaching
) -> LossFunction:
    """New noise on a new view of every frame at every step: `num_samples` evaluations of the base classifier each.

    labels: the base classifier, from inputs float32 [B, C, h, w] to classes int64 [B].
    """

    def objective(forward: Forward, batch: Batch) -> Tensor:
        views = how.view(batch.frames, batch.generator)
        shares = fresh_shares(labels, num_classes, sigma, num_samples, batch.generator)(views)
        logits = forward(noisy(views, how.guard, batch.generator))
        return soft_loss(how.loss, logits, shares, num_samples)

    return objective
