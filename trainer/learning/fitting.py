"""From settings to a schedule: what is left open in [base] or [surrogate] becomes what fits the weights it starts from."""

from __future__ import annotations

import math
from typing import Protocol

from rrise.trainer.learning.schedule import Schedule

SCRATCH, TRAINED, PRETRAINED = "scratch", "trained", "pretrained"
"""Where weights come from: nowhere, from a training of ours under noise, from somebody else's (many more frames)."""

MANY_FRAMES = 10_000
"""From which a network that was trained here holds more than a large rate would teach it anew."""


class Section(Protocol):
    """What [base] and [surrogate] have in common."""

    @property
    def batch_size(self) -> int: ...
    @property
    def optimiser(self) -> str: ...
    @property
    def schedule(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def layer_decay(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def ema(self) -> float: ...
    @property
    def seed(self) -> int: ...


def schedule_for(section: Section, epochs: int, start: str, num_frames: int, member: int = 0) -> Schedule:
    """The schedule of one training.

    start: SCRATCH, TRAINED or PRETRAINED. member: number of the network among those that are averaged; each has its own
    seed.

    A pretrained network is destroyed by the rates that suit a fresh one: on photographs at 224 pixels label agreement
    fell from .815 to .150 at rate 0.1. It gets AdamW, a small rate and clipped gradients.
    """
    pretrained = start == PRETRAINED
    optimiser = section.optimiser if section.optimiser != "auto" else ("adamw" if pretrained else "sgd")
    shape = section.schedule
    if shape == "auto":
        shape = "cosine" if pretrained else "one-cycle"
    rate = section.learning_rate or fitting_rate(optimiser, section.batch_size, start, num_frames)
    return Schedule(
        epochs=epochs,
        batch_size=section.batch_size,
        learning_rate=rate,
        weight_decay=section.weight_decay,
        optimiser=optimiser,
        shape=shape,
        layer_decay=section.layer_decay if pretrained else 1.0,
        clip=section.clip or (1.0 if pretrained else 0.0),
        ema=section.ema,
        seed=section.seed + 100 * member,
    )


def fitting_rate(optimiser: str, batch_size: int, start: str, num_frames: int) -> float:
    """The largest learning rate where none is asked for; it grows with the square root of the batch."""
    wider = math.sqrt(batch_size / 64)
    if optimiser == "adamw":
        return {SCRATCH: 2e-3, TRAINED: 5e-4, PRETRAINED: 1e-4}[start] * wider
    if start == TRAINED and num_frames >= MANY_FRAMES:
        return 0.01 * wider
    return {SCRATCH: 0.1, TRAINED: 0.1, PRETRAINED: 1e-3}[start] * wider
