"""The surrogate's second head: how far off its radius may be, learned from residuals on views of the training frames.

The residuals are taken on new views, not on the frames that the surrogate was trained on, because there they are far
too small to say where it errs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.promise.maps import clopper_pearson_map
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.statistics.probit import probit_from_logits
from rrise.trainer.counts.counting import fresh_answers
from rrise.trainer.learning.feed import seeded
from rrise.trainer.learning.views import View, fresh_shares
from rrise.trainer.networks import Network, ResNet, WithDifficulty
from rrise.trainer.workspace import Workspace

HIDDEN = 16
VIEWS = 2
"""Views of every training frame that is used."""
SAMPLES, CHUNK = 200, 4
"""Noisy evaluations of each view, and how many of them run at once."""
LEVEL = 0.97
"""The difficulty follows this quantile of the residual: the offset is about rare errors, not about average ones."""
STEPS, LEARNING_RATE = 600, 0.01


@dataclass(frozen=True)
class Learned:
    """A network with its difficulty head, the spec that builds it, and the base evaluations that learning took."""

    module: WithDifficulty
    spec: dict[str, Any]
    passes: int


def learn_difficulty(
    workspace: Workspace, base: Network, surrogate: nn.Module, spec: Mapping[str, Any], noise: float
) -> Learned:
    """Put a difficulty head on a trained surrogate. Its logits stay as they are.

    noise: standard deviation of the guard noise that the surrogate takes, 0 for a plain pass.

    Source: quantile regression (Koenker and Bassett 1978) of the residual R_raw - R_low.
    """
    generator = seeded(workspace.config.surrogate.seed + 1)
    views = torch.cat([_views(workspace, generator) for _ in range(VIEWS)])
    seen = views + noise * torch.randn(views.shape, generator=generator) if noise else views
    features, logits = _features(surrogate, seen)
    residual = _residuals(workspace, base, views, logits, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workspace.config.surrogate.seed)
        module = WithDifficulty(surrogate, features.shape[1], HIDDEN)
    _fit(module, features, residual)
    learned = {
        "kind": "difficulty",
        "network": dict(spec),
        "num_features": features.shape[1],
        "hidden": HIDDEN,
    }
    return Learned(module.eval(), learned, SAMPLES * len(views))


def _views(workspace: Workspace, generator: torch.Generator) -> Tensor:
    asked = workspace.config.surrogate
    inputs = workspace.training_inputs()
    chosen = inputs[torch.randperm(len(inputs), generator=generator)[: asked.difficulty_frames]]
    return View(asked.shift, asked.flip, asked.mix)(chosen, generator)


def _features(surrogate: nn.Module, views: Tensor) -> tuple[Tensor, Tensor]:
    """What the head sees of each view, and the surrogate's logits."""
    features, logits = [], []
    with torch.inference_mode():
        for part in views.split(256):
            found = surrogate.features(part) if isinstance(surrogate, ResNet) else surrogate(part)
            features.append(found)
            logits.append(surrogate.head(found) if isinstance(surrogate, ResNet) else found)
    return torch.cat(features).clone(), torch.cat(logits).clone()


def _residuals(
    workspace: Workspace, base: Network, views: Tensor, logits: Tensor, generator: torch.Generator
) -> Tensor:
    """R_raw - R_low of each view, float32 [n], with the map that belongs to this number of samples."""
    sigma, beta = workspace.config.smoothing.sigma, 0.1
    classes = len(workspace.dataset.class_names)
    labels = fresh_answers(workspace, base, torch.device("cpu"))
    shares_of = fresh_shares(labels, classes, sigma, CHUNK, generator)
    parts = [
        sum((shares_of(part) for _ in range(SAMPLES // CHUNK)), torch.zeros(())) * CHUNK
        for part in views.split(256)
    ]
    counts = torch.cat(parts).round().numpy().astype(np.int64)
    predicted = probit_from_logits(logits.numpy())
    raw = clopper_pearson_map(sigma, SAMPLES, beta)(np.float32(sigma) * predicted.probit)
    hits = counts[np.arange(len(counts)), predicted.label][:, None]
    reference = reference_radius(hits, np.full(len(counts), SAMPLES), sigma, beta)[:, 0]
    return torch.from_numpy(raw - reference)


def _fit(module: WithDifficulty, features: Tensor, residual: Tensor) -> None:
    """Least quantile loss at LEVEL, in units of the mean absolute residual; then scaled to mean 1."""
    wanted = residual / residual.abs().mean().clamp_min(1e-6)
    weights = [*module.first.parameters(), *module.second.parameters()]
    optimiser = torch.optim.Adam(weights, LEARNING_RATE, weight_decay=1e-3)
    for _ in range(STEPS):
        above = wanted - module.difficulty(features)
        loss = torch.maximum(LEVEL * above, (LEVEL - 1) * above).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        module.scale.copy_(1.0 / module.difficulty(features).mean())
