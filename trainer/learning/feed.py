"""Batches of training frames on the device: made when they are asked for, or ahead of time beside a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

AHEAD = 3
"""Batches that are prepared while the GPU computes."""


class TrainingFrames(Protocol):
    """What training needs of its frames; `rrise.trainer.data.inputs.Inputs` is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """float32 [B, C, h, w] in [0, 1] of indices int64 [B]."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...


def training_batches(
    frames: TrainingFrames, indices: Iterable[Tensor], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Index and frames of each batch, both on `device`, in the order of `indices`."""
    if device.type == "cpu":
        for index in indices:
            yield index, frames[index]
        return
    yield from _ahead(lambda index: _pinned(index, frames), indices, device)


def _pinned(index: Tensor, frames: TrainingFrames) -> tuple[Tensor, Tensor]:
    return index.pin_memory(), frames[index].pin_memory()


def _ahead(
    make: Callable[[Tensor], tuple[Tensor, Tensor]], indices: Iterable[Tensor], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Prepare on another thread, so that reading and preprocessing hide behind the GPU's work."""
    waiting = iter(indices)
    with ThreadPoolExecutor(max_workers=2) as pool:
        queue = deque(pool.submit(make, index) for index in _first(waiting, AHEAD))
        while queue:
            index, made = queue.popleft().result()
            yield index.to(device, non_blocking=True), made.to(device, non_blocking=True)
            queue.extend(pool.submit(make, following) for following in _first(waiting, 1))


def _first(items: Iterator[Tensor], count: int) -> list[Tensor]:
    return [item for _, item in zip(range(count), items)]


def step_seed(seed: int, step: int, rank: int, processes: int) -> int:
    """Seed of everything random in one step of one process. Distinct for all steps and processes of a training."""
    return ((seed + 1) * 2_654_435_761 + step * processes + rank) % (1 << 32)


def seeded(seed: int, device: torch.device | None = None) -> torch.Generator:
    """A generator of its own, so that nothing reads or moves the global random state."""
    return torch.Generator(device or torch.device("cpu")).manual_seed(seed)
