"""A network with a second head that says how far off its radius may be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrise.trainer.networks.resnet import ResNet

DIFFICULTY_FLOOR = 0.1
"""Keeps the difficulty of an easy frame from vanishing, which would let a rare error through unchecked."""


class WithDifficulty(nn.Module):
    """A network with a second head: (logits float32 [B, K], difficulty float32 [B] > 0).

    The difficulty scales the offset frame by frame. It is learned from the features of a ResNet, or from the logits
    of any other network, and never changes the logits.
    """

    scale: Tensor

    def __init__(self, network: nn.Module, num_features: int, hidden: int = 16) -> None:
        super().__init__()
        self.network = network
        self.first, self.second = nn.Linear(num_features, hidden), nn.Linear(hidden, 1)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.network, ResNet):
            features = self.network.features(x)
            logits = self.network.head(features)
        else:
            features = logits = self.network(x)
        return logits, self.difficulty(features)

    def difficulty(self, features: Tensor) -> Tensor:
        """Difficulty float32 [B] of features float32 [B, F]; at least DIFFICULTY_FLOOR of the average one."""
        raw = F.softplus(self.second(F.relu(self.first(features))))
        return (raw.squeeze(1) + DIFFICULTY_FLOOR) * self.scale
