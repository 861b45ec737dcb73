"""A classifier of one's own, as `03_your_own_classifier.py` and its workspace name it: own_classifier:make."""

from __future__ import annotations

from torch import nn


def make() -> nn.Module:
    """A small convolutional network: float32 [B, 1, 8, 8] in [0, 1] -> logits [B, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )
