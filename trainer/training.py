"""What base and surrogate training share: seeded batches, the optimiser, one training run with a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rrise.calibration.console import Progress
from rrise.trainer.data.inputs import Inputs
from rrise.trainer.errors import TrainerError

WARM_UP, FIRST_SHARE = 0.2, 0.04

SMALL_BATCH = 1 << 16
"""Numbers in a batch below which one thread trains faster than two."""


@dataclass(frozen=True)
class Recipe:
    """How to train: stochastic gradient descent with Nesterov momentum and a one-cycle learning rate.

    learning_rate is the largest of the cycle; label is shown beside the progress bar.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label: str


@dataclass(frozen=True)
class Trained:
    """examples: frames seen in training steps, with repeats; seconds: wall time; loss: mean over the last epoch."""

    examples: int
    seconds: float
    loss: float


def train(
    network: nn.Module,
    recipe: Recipe,
    inputs: Inputs,
    loss_of: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Trained:
    """Train `network` in place.

    inputs: the training frames, of which only number and size matter here.
    loss_of: from frame indices int64 [B] to the mean loss of that batch.
    generator: seeds the order of the frames (and whatever `loss_of` draws from it).

    Raises TrainerError as soon as the loss is NaN or infinite.
    """
    start = time.monotonic()
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    num_frames = len(inputs)
    size = min(recipe.batch_size, num_frames)
    steps = recipe.epochs * (num_frames // size)
    optimiser = torch.optim.SGD(
        network.parameters(),
        recipe.learning_rate,
        momentum=0.9,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: one_cycle(step / steps))
    loss_sum, examples = 0.0, 0
    threads = threads_for(size * math.prod(inputs.shape))
    with threads, Progress(steps * size, "frames", recipe.label) as progress:
        for epoch in range(recipe.epochs):
            losses = [
                _step(optimiser, schedule, loss_of(index), progress, size)
                for index in _batches(num_frames, size, generator)
            ]
            loss_sum = float(torch.stack(losses).mean())
            examples += len(losses) * size
            if not torch.isfinite(torch.tensor(loss_sum)):
                raise TrainerError(
                    f"{recipe.label}: the loss became {loss_sum} in epoch {epoch + 1}, expected a finite number; lower "
                    "the learning_rate (nothing was overwritten)"
                )
    network.eval()
    return Trained(examples, time.monotonic() - start, loss_sum)


@contextmanager
def threads_for(batch_numbers: int) -> Iterator[None]:
    """Keep PyTorch to one thread while batches are small.

    A second thread then waits more than it computes: 11 against 133 seconds of processor time for the digits' base
    classifier on a machine that other processes share.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_numbers < SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _step(
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    loss: Tensor,
    progress: Progress,
    size: int,
) -> Tensor:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    progress.advance(size)
    return loss.detach()


def one_cycle(progress: float) -> float:
    """Share of the largest learning rate after `progress` in [0, 1] of the steps: a linear rise over the first
    fifth from 1/25, then half a cosine down to nothing (after Smith and Topin 2019)."""
    if progress < WARM_UP:
        return FIRST_SHARE + (1 - FIRST_SHARE) * progress / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))


def _batches(num_frames: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch: all frames in random order, in whole batches (the ragged rest waits for another epoch's order)."""
    order = torch.randperm(num_frames, generator=generator)
    for start in range(0, num_frames - size + 1, size):
        yield order[start : start + size]


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that training neither reads nor moves the global random state."""
    return torch.Generator().manual_seed(seed)
