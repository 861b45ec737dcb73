"""Losses on logits, float32 [B, K], each a mean over frames."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rrise.calibration.statistics.probit import DENOMINATOR, LOGIT_LIMIT, NUMERATOR
from rrise.trainer.errors import TrainerError

LOSSES = ("ce", "js", "probit", "both")


def consistency_loss(logits: Tensor, labels: Tensor, strength: float, entropy: float) -> Tensor:
    """Cross-entropy of noisy copies, plus what they disagree in, plus the entropy of what they say together.

    mean_j CE(p_j, label) + strength * mean_j KL(p_bar || p_j) + entropy * H(p_bar), with p_bar the copies' mean softmax.

    logits: float32 [m, B, K], m copies of each view. labels: int64 [B].

    Source: Jeong and Shin 2020, equation 6 (lambda is `strength`, eta is `entropy`).
    """
    logs = logits.log_softmax(-1)
    cross_entropy = F.nll_loss(logs.flatten(0, 1), labels.repeat(len(logits)))
    mean = logs.exp().mean(0)
    log_mean = logs.logsumexp(0) - math.log(len(logits))
    disagreement = (mean * (log_mean - logs)).sum(-1).mean()
    return cross_entropy + strength * disagreement - entropy * (mean * log_mean).sum(-1).mean()


def soft_loss(name: str, logits: Tensor, shares: Tensor, num_samples: int) -> Tensor:
    """The loss called `name` against class shares float32 [B, K].

    "ce": soft-label cross-entropy, unbiased for the cross-entropy to the true class probabilities however few samples the
    shares come from. "js": Jensen-Shannon divergence, "probit": regression of the probit, "both": the sum of "ce" and
    "probit"; those three want shares of many samples. num_samples: that the shares come from.
    """
    if name == "js":
        return jensen_shannon(logits, shares)
    if name == "ce":
        return F.cross_entropy(logits, shares)
    if name == "probit":
        return probit_regression(logits, shares, num_samples)
    if name == "both":
        return F.cross_entropy(logits, shares) + probit_regression(logits, shares, num_samples)
    raise TrainerError(f"loss: got {name!r}, expected one of {', '.join(LOSSES)}")


def jensen_shannon(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence between softmax(logits) and `shares`, both [B, K] (Accelerated Smoothing)."""
    probabilities = logits.softmax(1)
    middle = (0.5 * (probabilities + shares)).clamp_min(1e-12).log()
    halves = [(p * (p.clamp_min(1e-12).log() - middle)).sum(1) for p in (probabilities, shares)]
    return torch.mean(0.5 * (halves[0] + halves[1]))


def probit_regression(logits: Tensor, shares: Tensor, num_samples: int) -> Tensor:
    """Mean Huber loss between the surrogate's and the Monte Carlo probit of the most frequent class.

    Half an observation more on each side keeps the Monte Carlo probit finite.
    """
    top = shares.max(1)
    known = torch.special.ndtri(((top.values * num_samples + 0.5) / (num_samples + 1.0)).double()).float()
    return F.smooth_l1_loss(probit_of_class(logits, top.indices), known)


def probit_of_class(logits: Tensor, label: Tensor) -> Tensor:
    """Phi^-1 of the softmax probability of `label`, float32 [B].

    By the rational function of `rrise.calibration.statistics.probit`.
    """
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
