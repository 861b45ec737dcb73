"""A task that is learned in a second: bright or dark images, and a small network with dropout and batch normalisation."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrise.trainer.learning import Schedule, Trained, open_training_session, train_network
from rrise.trainer.learning.engine import Batch, Forward
from rrise.trainer.learning.recipes import gaussian
from rrise.trainer.learning.views import View

SIGMA = 0.25


class Pixels:
    """Images float32 [n, 1, 4, 4] in [0, 1], as `train_network` takes them."""

    def __init__(self, count: int = 96) -> None:
        self.images = torch.rand((count, 1, 4, 4), generator=torch.Generator().manual_seed(5))
        self.labels = (self.images.mean((1, 2, 3)) > 0.5).long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.images[index]

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 4, 4)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(64, 2),
        )


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.flatten().float() for value in module.state_dict().values()]).detach().cpu()


def learn(
    folder: Path | None = None,
    schedule: Schedule | None = None,
    pause: float = 0.0,
    save_every: float = 120.0,
    minutes: float | None = None,
    **options: Any,
) -> tuple[nn.Module, Trained]:
    """Train `network`; every step takes at least `pause` seconds."""
    frames, module = Pixels(), network()
    wanted = gaussian(frames.labels, View(shift=1), SIGMA)

    def objective(forward: Forward, batch: Batch) -> Tensor:
        time.sleep(pause)
        return wanted(forward, batch)

    session = open_training_session(
        folder, device="cpu", checkpoint_minutes=save_every / 60, minutes=minutes, **options
    )
    trained = train_network(module, schedule or Schedule(4, 16, 0.05, ema=0.9), frames, objective, session)
    return module, trained


def accuracy(module: nn.Module) -> float:
    frames = Pixels()
    return float((module(frames.images).argmax(1) == frames.labels).float().mean())


def loss(module: nn.Module) -> float:
    frames = Pixels()
    return float(F.cross_entropy(module(frames.images), frames.labels))


if __name__ == "__main__":  # a process that tests kill
    print("ready", flush=True)
    learn(Path(sys.argv[1]), pause=0.05, save_every=0.0)
