"""The difficulty head of our surrogate, learned where the data are: how far off its radius may be, frame by frame.

The same recipe as `rrise.trainer.surrogates.difficulty`, on any device and on a part of the training frames only, because its
fresh evaluations count towards the offline cost.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rrise.calibration.promise.maps import clopper_pearson_map
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.statistics.probit import probit_from_logits
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import ResNet, WithDifficulty

DRAWS = 100
"""Noisy evaluations of each view."""
HIDDEN = 16
LEVEL = 0.97
"""Quantile of the residual that the difficulty follows: the offset is about rare errors."""
STEPS, RATE, BETA = 600, 0.01, 0.1


def learn_difficulty(
    surrogate: torch.nn.Module, views: Tensor, counts: np.ndarray, sigma: float, seed: int
) -> WithDifficulty:
    """Put a difficulty head on a trained surrogate; its logits stay as they are.

    views: float32 [n, C, h, w], which the surrogate was not trained on as they are. counts: class counts int [n, K] of
    the base classifier at them.

    Source: quantile regression (Koenker and Bassett 1978) of the residual R_raw - R_low.
    """
    if not isinstance(surrogate, ResNet):
        raise TrainerError(f"difficulty: got a {type(surrogate).__name__}, expected a ResNet with features")
    with torch.no_grad():
        features = torch.cat([surrogate.features(part) for part in views.split(256)])
        logits = surrogate.head(features).float().cpu().numpy()
    wanted = torch.from_numpy(_residuals(logits, counts, sigma)).to(features.device)
    wanted = wanted / wanted.abs().mean().clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = WithDifficulty(surrogate, features.shape[1], HIDDEN).to(features.device)
    weights = [*module.first.parameters(), *module.second.parameters()]
    optimiser = torch.optim.Adam(weights, RATE, weight_decay=1e-3)
    for _ in range(STEPS):
        above = wanted - module.difficulty(features)
        loss = torch.maximum(LEVEL * above, (LEVEL - 1) * above).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        module.scale.copy_(1.0 / module.difficulty(features).mean())
    return module.eval()


def _residuals(logits: np.ndarray, counts: np.ndarray, sigma: float) -> np.ndarray:
    """R_raw - R_low of each view, float32 [n], with the map that belongs to this number of draws."""
    found = probit_from_logits(logits)
    draws = counts.sum(axis=1)
    raw = clopper_pearson_map(sigma, int(draws[0]), BETA)(np.float32(sigma) * found.probit)
    hits = counts[np.arange(len(counts)), found.label][:, None]
    return np.asarray(raw - reference_radius(hits, draws, sigma, BETA)[:, 0], np.float32)
