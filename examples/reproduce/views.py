"""Blended views and the losses of the surrogates, on whatever device the frames are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rrise.calibration.statistics.probit import DENOMINATOR, LOGIT_LIMIT, NUMERATOR


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


def jensen_shannon(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence between softmax(logits) and `shares`, both [B, K] (Accelerated Smoothing)."""
    probabilities = logits.softmax(1)
    middle = (0.5 * (probabilities + shares)).clamp_min(1e-12).log()
    halves = [(p * (p.clamp_min(1e-12).log() - middle)).sum(1) for p in (probabilities, shares)]
    return torch.mean(0.5 * (halves[0] + halves[1]))


def probit_of_class(logits: Tensor, label: Tensor) -> Tensor:
    """Phi^-1 of the softmax probability of `label`, float32 [B], by the rational function of `calibration.statistics.probit`."""
    chosen = logits.gather(1, label[:, None])
    others = logits.scatter(1, label[:, None], -1e30).logsumexp(1)
    t = (chosen[:, 0] - others).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    size = t.abs()
    return t * _polynomial(NUMERATOR, size) / _polynomial(DENOMINATOR, size)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def probit_regression(logits: Tensor, shares: Tensor, num_samples: int) -> Tensor:
    """Mean Huber loss between the surrogate's and the Monte Carlo probit of the most frequent class.

    Half an observation more on each side keeps the Monte Carlo probit finite.
    """
    top = shares.max(1)
    known = torch.special.ndtri(((top.values * num_samples + 0.5) / (num_samples + 1.0)).double()).float()
    return F.smooth_l1_loss(probit_of_class(logits.float(), top.indices), known)
