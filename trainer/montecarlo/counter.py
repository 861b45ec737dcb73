"""Counts one group of cells in host memory: each thread draws noise, runs the classifier and counts on its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.classifier import Labeller
from rrise.trainer.montecarlo.noise import Cell, NoiseFiller, NoiseKey, sample_batches, units
from rrise.trainer.montecarlo.storage.identity import Identity

# About as many numbers per thread as stay in the cache while a batch passes through the network.
NUMBERS_PER_THREAD = 1 << 17
LARGEST_BATCH = 256


Tick = Callable[[int], object]


def ignore(evaluations: int) -> None:
    """A tick that nobody listens to."""


class Counter(Protocol):
    """Counts cells of the image block that was loaded last."""

    batch_size: int
    device: torch.device
    least_cells: int | None
    """Cells that keep every worker busy: what is counted at once may be as few. None: always a whole group."""

    def load(self, frames: Tensor) -> None:
        """Take the preprocessed frames of an image block, float32 [rows, C, H, W]."""

    def count(self, cells: list[Cell], tick: Tick = ignore) -> np.ndarray:
        """Class counts of `cells`, int64 [rows, K + 1]; the last column counts outputs that were NaN.

        tick: called with the number of evaluations after each batch, by whichever thread it was.
        """

    def close(self) -> None:
        """Release threads and memory."""


class HostCounter:
    """The counter for a CPU, and for black boxes.

    Every thread takes cells of its own and runs the network on them alone. Threads that share a forward pass wait for
    each other at every layer: on small networks that costs more than it gains, and on a busy machine far more.
    """

    def __init__(self, labeller: Labeller, identity: Identity, batch_size: int | None) -> None:
        self._labeller, self._identity, self.device = labeller, identity, torch.device("cpu")
        self._key = NoiseKey(identity.seed, identity.stream)
        self._threads = torch.get_num_threads()
        self._workers = self._threads if labeller.concurrent else 1
        self.least_cells: int | None = self._workers
        self._stopped = False
        self._pool = ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(1,))
        self._filler = NoiseFiller(identity.sigma, 1 if self._workers > 1 else self._threads)
        self._wanted = batch_size
        self.batch_size = batch_size or 1
        self._frames = np.empty((0, 1, 1, 1), dtype=np.float32)

    def load(self, frames: Tensor) -> None:
        first = not len(self._frames)
        self._frames = np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy())
        if first and self._wanted is None:
            self.batch_size = usual_batch(self._frames[0].size)
        if first and self._workers > 1:
            # The first batch decides how the network is run; the threads must not decide it side by side.
            self._labeller(torch.from_numpy(np.repeat(self._frames[:1], 2, axis=0)).permute(0, 3, 1, 2))

    def count(self, cells: list[Cell], tick: Tick = ignore) -> np.ndarray:
        if min(self._workers, len(cells)) == 1:
            return self._count(cells, tick)
        shares = [cells[worker :: self._workers] for worker in range(min(self._workers, len(cells)))]
        return np.asarray(np.sum(list(self._pool.map(self._count, shares, [tick] * len(shares))), axis=0))

    @torch.inference_mode()
    def _count(self, cells: list[Cell], tick: Tick) -> np.ndarray:
        block, columns = self._identity.sample_block, self._identity.num_classes + 1
        size = equal_batches(len(cells) * block, self.batch_size)
        # A single row takes another matrix kernel, with other rounding, than the same row in a batch.
        buffer = np.zeros((max(size, 2), *self._frames.shape[1:]), dtype=np.float32)
        x = torch.from_numpy(buffer).permute(0, 3, 1, 2)
        counts = torch.zeros(len(self._frames) * columns, dtype=torch.int64)
        ones = torch.ones(size, dtype=torch.int64)
        for pieces in sample_batches(units(self._key, cells, block, self._frames[0].size), size):
            self._filler.fill(buffer, self._frames, pieces)
            filled = pieces[-1].stop
            labels = self._labeller(x[: max(filled, 2)])[:filled]
            rows = np.repeat([p.unit.cell.row for p in pieces], [p.stop - p.start for p in pieces])
            counts.scatter_add_(0, torch.from_numpy(rows * columns) + labels, ones[:filled])
            if self._stopped:
                raise RuntimeError("stopped: the counter was closed")
            tick(filled)
        return counts.view(-1, columns).numpy()

    def close(self) -> None:
        self._stopped = True  # threads that are still counting, after Ctrl-C, end with their batch
        self._filler.close()
        self._pool.shutdown()
        # PyTorch's setting is one for the whole process, whichever thread made it.
        torch.set_num_threads(self._threads)


def usual_batch(numel: int) -> int:
    """Rows of a batch of inputs of `numel` numbers, where nobody asks for another."""
    return max(8, min(LARGEST_BATCH, NUMBERS_PER_THREAD // numel))


def equal_batches(total: int, largest: int) -> int:
    """The size of equal batches, at most `largest`, so that the last one is no ragged remainder."""
    return -(-total // -(-total // largest))


def refuse_nan(counts: np.ndarray, cells: list[Cell], dtype: str) -> np.ndarray:
    """Counts uint32 [rows, K] of counts [rows, K + 1], unless the last column says that a logit was NaN."""
    broken = int(counts[:, -1].sum())
    if broken:
        raise TrainerError(
            f"the base classifier returned NaN on {broken} noisy copies of frames {cells[0].frame} to "
            f"{cells[-1].frame} in {dtype}; expected logits. Check its weights, its input range ([0, 1] plus noise) "
            "and whether this precision overflows. The counts stored before are intact"
        )
    return counts[:, :-1].astype(np.uint32)
