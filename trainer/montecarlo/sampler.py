"""Counts classes under noise: the loop that nearly all of the offline cost is spent in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from calibration.digests import frame_digests
from trainer.errors import TrainerError
from trainer.montecarlo.classifier import Prepared
from trainer.montecarlo.noise import Cell, NoiseKey, NoisyBatches, batches, units
from trainer.montecarlo.store import CountStore

# About as many numbers as stay in the cache while a batch passes through the network.
BATCH_NUMBERS = 1 << 20


def sample_counts(
    classifier: nn.Module,
    preprocess: nn.Module,
    frames: np.ndarray,
    store: CountStore,
    num_samples: int | np.ndarray,
    *,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Evaluate `classifier` on noisy copies of every frame until the store holds `num_samples` counts of each.

    What the store already holds is not repeated. Killed at any moment, at most the block in work (64 frames by one
    sample block) is lost, and the next call continues. The counts are the same however they were come by.

    Args:
        classifier: float32 [B, C, H, W] in [0, 1] plus noise -> logits [B, K].
        preprocess: uint8 [B, H, W, C] -> float32 [B, C, h, w] in [0, 1]; noise is added to its output, in float32.
        frames: uint8 [n, H, W, C], those whose digests the store has.
        num_samples: N per frame, or one N for each, int [n]; a multiple of the store's sample block.
        batch_size: evaluations per forward pass; None = chosen for the input size. Halved when memory runs out.
        dtype: precision of the classifier, that of the store; noise is always added in float32.
        progress: called with the number of evaluations stored since the last call.

    Raises:
        TrainerError: frames, dtype or N do not fit the store; the network returns NaN or another shape; another
            writer; a full or read-only disk. The store stays intact.
    """
    wanted = store.check_num_samples(num_samples)
    _check_fit(frames, store, dtype, batch_size)
    place = torch.device(device or "cpu")
    prepared = Prepared(classifier, store.identity.num_classes, getattr(torch, store.identity.dtype), place)
    preprocess = preprocess.to(place)
    size = store.identity.image_block
    with store.writer(), torch.inference_mode():
        for start in range(0, len(frames), size):
            stop = min(start + size, len(frames))
            counts = store.read(start, stop)
            if (_samples(counts) < wanted[start:stop]).any():
                x = preprocess(torch.from_numpy(np.array(frames[start:stop])).to(place))
                worker = _Worker(prepared, x, store, batch_size)
                for cells in _groups(counts, wanted[start:stop], start, store.identity.sample_block):
                    counts = counts + worker.count(cells)
                    store.write(start, counts)
                    if progress is not None:
                        progress(len(cells) * store.identity.sample_block)


def _check_fit(frames: np.ndarray, store: CountStore, dtype: str | None, batch_size: int | None) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4:
        raise TrainerError(f"frames: got {frames.dtype} {list(frames.shape)}, expected uint8 [n, H, W, C]")
    if len(frames) != store.identity.num_frames or (frame_digests(frames) != store.digests).any():
        raise TrainerError(
            f"{store.path}, stream {store.identity.stream!r}: got {len(frames)} frames that are not the "
            f"{store.identity.num_frames} of the store; pass the same frames in the same order"
        )
    if dtype is not None and dtype != store.identity.dtype:
        raise TrainerError(
            f"dtype: got {dtype!r}, expected {store.identity.dtype!r} as in the store {store.path}; use a new store"
        )
    if batch_size is not None and batch_size < 1:
        raise TrainerError(f"batch_size: got {batch_size}, expected at least 1, or None to have it chosen")


def _samples(counts: np.ndarray) -> np.ndarray:
    return counts.sum(axis=1, dtype=np.int64)


def _groups(counts: np.ndarray, wanted: np.ndarray, start: int, sample_block: int) -> Iterator[list[Cell]]:
    """The missing cells of an image block, sample block by sample block, in groups that are stored together."""
    done, needed = _samples(counts) // sample_block, wanted // sample_block
    cells = (
        Cell(int(row), start + int(row), block)
        for block in range(int(done.min()), int(needed.max()))
        for row in np.flatnonzero((done <= block) & (block < needed))
    )
    while group := list(islice(cells, len(counts))):
        yield group


class _Worker:
    """Counts cells of one image block whose preprocessed frames are `x`, float32 [rows, C, H, W]."""

    def __init__(self, prepared: Prepared, x: Tensor, store: CountStore, batch_size: int | None) -> None:
        self._prepared, self._device = prepared, x.device
        self._frames = np.ascontiguousarray(x.permute(0, 2, 3, 1).cpu().numpy())
        self._identity = store.identity
        self._key = NoiseKey(store.identity.seed, store.identity.stream)
        numel = self._frames[0].size
        self._batch_size = batch_size or max(8, min(512, BATCH_NUMBERS // numel))

    def count(self, cells: list[Cell]) -> np.ndarray:
        """Class counts uint32 [rows, K] of `cells`; with half the batch size when memory runs out."""
        while True:
            try:
                return self._count(cells)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or self._batch_size == 1:
                    raise
                self._batch_size = -(-self._batch_size // 2)

    def _count(self, cells: list[Cell]) -> np.ndarray:
        block, classes = self._identity.sample_block, self._identity.num_classes
        total = len(cells) * block
        # Equal batches: the last one is no ragged remainder.
        size = -(-total // -(-total // self._batch_size))
        # A single row takes another matrix kernel, with other rounding, than the same row in a batch.
        noisy = NoisyBatches(max(size, 2), self._frames, self._identity.sigma, torch.get_num_threads())
        noisy.buffer[-1] = 0
        x = torch.from_numpy(noisy.buffer).permute(0, 3, 1, 2)
        counts = torch.zeros(len(self._frames) * classes, dtype=torch.int64, device=self._device)
        broken = torch.zeros((), dtype=torch.bool, device=self._device)
        try:
            for pieces in batches(units(self._key, cells, block, self._frames[0].size), size):
                filled = noisy.fill(pieces)
                logits = self._prepared(x[: max(filled, 2)].to(self._device))[:filled]
                rows = np.repeat([p.unit.cell.row for p in pieces], [p.stop - p.start for p in pieces])
                offsets = torch.from_numpy(rows * classes).to(self._device)
                counts += torch.bincount(offsets + logits.argmax(1), minlength=len(counts))
                broken |= logits.isnan().any()
        finally:
            noisy.close()
        if bool(broken):
            raise TrainerError(
                f"the base classifier returned NaN on noisy frames {cells[0].frame} to {cells[-1].frame} in "
                f"{self._identity.dtype}; expected logits. Check its weights, its input range ([0, 1] plus noise) and "
                "whether this precision overflows. The counts stored before are intact"
            )
        return counts.view(-1, classes).cpu().numpy().astype(np.uint32)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
