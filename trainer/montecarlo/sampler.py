"""Counts classes under noise, into a store or at once: the loop that nearly all of the offline cost is spent in."""

from __future__ import annotations

import copy
import platform
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import nn

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.brought.user_code import out_of_memory
from rrise.trainer.data.inputs import Inputs
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.classifier import BlackBox, Labeller, make_labeller
from rrise.trainer.montecarlo.counter import Counter, HostCounter, ignore, refuse_nan
from rrise.trainer.montecarlo.device_counter import DeviceCounter
from rrise.trainer.montecarlo.distributed import team
from rrise.trainer.montecarlo.noise import Cell
from rrise.trainer.montecarlo.storage.identity import Identity
from rrise.trainer.montecarlo.storage.store import CountStore

SECONDS_PER_WRITE = 5.0
"""About how much counting may be lost when the program is killed."""


def sample_counts(
    classifier: nn.Module | BlackBox | Labeller,
    preprocess: nn.Module,
    frames: np.ndarray | Inputs,
    store: CountStore,
    num_samples: int | np.ndarray,
    *,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Evaluate `classifier` on noisy copies of every frame until the store holds `num_samples` counts of each.

    What the store already holds is not repeated. Killed at any moment, at most what was counted since the last write is lost:
    some seconds (SECONDS_PER_WRITE), or of a fast network 64 frames by one sample block. The next call continues. Processes
    started by torchrun share the work. The counts are the same however they were come by.

    Args:
        classifier: float32 [B, C, H, W] in [0, 1] plus noise -> logits [B, K]: a torch module, or any callable on
            numpy arrays (logits or labels; OnnxClassifier for an ONNX file), or a labeller (`engines.open_engine`), which
            must be the store's engine.
        preprocess: uint8 [B, H, W, C] -> float32 [B, C, h, w] in [0, 1]; noise is added to its output, in float32.
        frames: uint8 [n, H, W, C], those whose digests the store has; or Inputs, which were preprocessed before and are
            read block by block, so that memory holds 64 of them.
        num_samples: N per frame, or one N for each, int [n]; a multiple of the store's sample block.
        batch_size: evaluations per forward pass; None = chosen for the input size. Halved when memory runs out.
        dtype: precision of the classifier, that of the store; noise is always added in float32.
        progress: called with the number of evaluations since the last call, after every batch; a negative number where a
            batch that ran out of memory is repeated.

    Raises:
        TrainerError: frames, dtype or N do not fit the store; the network returns NaN or another shape; another
            writer; a full or read-only disk. The store stays intact.
    """
    wanted = store.check_num_samples(num_samples)
    _check_fit(frames, store, dtype, batch_size)
    crew = team()
    place = crew.device(device)
    _check_engine(classifier, store)
    labeller = make_labeller(classifier, store.identity.num_classes, store.identity.dtype, place)
    counter = make_counter(labeller, store.identity, batch_size, place)
    pace = _Pace(counter.least_cells, store.identity)
    try:
        with crew.writing(store), torch.inference_mode():
            if crew.rank == 0:
                store.record_run(_circumstances(place))
            # A copy: the caller goes on using theirs where it is.
            size, preprocess = store.identity.image_block, copy.deepcopy(preprocess).to(place)
            for block, start in enumerate(range(0, len(frames), size)):
                if crew.owns(block):
                    rows = range(start, min(start + size, len(frames)))
                    make = partial(_block, frames, preprocess, rows, place)
                    _sample_block(store, counter, make, rows, wanted, pace, progress)
            crew.wait()
            # Frames with an N of their own come from stages, which account for their looks themselves.
            if np.ndim(num_samples) == 0 and crew.rank == 0:
                # Usually one N. After a larger one was begun and given up there are several, each a look.
                for size in np.unique(store.samples()):
                    store.plans.record_look(int(size))
    finally:
        counter.close()


def count_inputs(
    classifier: nn.Module | BlackBox | Labeller,
    inputs: torch.Tensor | np.ndarray,
    num_samples: int,
    *,
    num_classes: int,
    sigma: float,
    seed: int,
    stream: str,
    dtype: str = "float32",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Class counts uint32 [n, K] around any inputs, in this process and at once: nothing is stored.

    The counts are those that `sample_counts` stores for frames which the preprocessing turns into these inputs, under the
    same sigma, seed and stream: noise depends on these and on the place in the order.

    Args:
        classifier, batch_size, progress: as for `sample_counts`.
        inputs: float32 [n, C, h, w] in [0, 1]; 64 of them at a time are taken to the device.
        num_samples: N of each input; a multiple of the sample block of 100.
        sigma: noise standard deviation, in [0, 1] pixel units. seed, stream: name the noise; counts that shall be
            independent of others need a stream of their own.
        dtype: precision of the classifier; noise is always added in float32.

    Raises:
        TrainerError: inputs of another type or shape, or not finite; an N or a setting that no count can have; the network
            returns NaN or another shape.
    """
    tensors = torch.from_numpy(inputs) if isinstance(inputs, np.ndarray) else inputs.detach()
    if tensors.dtype != torch.float32 or tensors.ndim != 4 or not bool(tensors.isfinite().all()):
        raise TrainerError(
            f"inputs: got {tensors.dtype} {list(tensors.shape)}, expected finite float32 [n, C, h, w] in [0, 1]"
        )
    identity = Identity.unstored(
        stream, len(tensors), num_classes=num_classes, sigma=sigma, seed=seed, dtype=dtype
    )
    wanted = identity.check_num_samples(num_samples)
    check_batch_size(batch_size)
    place = torch.device(device or "cpu")
    counter = make_counter(make_labeller(classifier, num_classes, dtype, place), identity, batch_size, place)
    found = np.zeros((len(tensors), num_classes), np.uint32)
    pace = _Pace(counter.least_cells, identity)
    try:
        with torch.inference_mode():
            for start in range(0, len(tensors), identity.image_block):
                rows = slice(start, start + identity.image_block)
                counter.load(tensors[rows].to(place))
                for counts in _counted(counter, found[rows], wanted[rows], start, identity, pace, progress):
                    found[rows] = counts
    finally:
        counter.close()
    return found


def make_counter(
    labeller: Labeller, identity: Identity, batch_size: int | None, device: torch.device
) -> Counter:
    """The counter for a device."""
    if device.type == "cpu":
        return HostCounter(labeller, identity, batch_size)
    return DeviceCounter(labeller, identity, batch_size, device)


def _block(
    frames: np.ndarray | Inputs, preprocess: nn.Module, rows: range, device: torch.device
) -> torch.Tensor:
    """The inputs float32 [rows, C, h, w] of one image block."""
    if isinstance(frames, Inputs):
        return frames[torch.arange(rows.start, rows.stop)].to(device)
    inputs: torch.Tensor = preprocess(torch.from_numpy(np.array(frames[rows.start : rows.stop])).to(device))
    return inputs


def _sample_block(
    store: CountStore,
    counter: Counter,
    make: Callable[[], torch.Tensor],
    rows: range,
    wanted: np.ndarray,
    pace: _Pace,
    progress: Callable[[int], object] | None,
) -> None:
    """Bring one image block, whose inputs `make` gives, to its wanted samples."""
    start, wanted = rows.start, wanted[rows.start : rows.stop]
    counts = store.read(rows.start, rows.stop)
    if (_samples(counts) >= wanted).all():
        store.settle(start, counts)
        return
    counter.load(make())
    for grown in _counted(counter, counts, wanted, start, store.identity, pace, progress):
        store.write(start, grown)


def _counted(
    counter: Counter,
    counts: np.ndarray,
    wanted: np.ndarray,
    start: int,
    identity: Identity,
    pace: _Pace,
    progress: Callable[[int], object] | None,
) -> Iterator[np.ndarray]:
    """Counts uint32 [rows, K] of the image block that is loaded, from `counts` to `wanted` samples, after each group of cells."""
    for cells in _groups(counts, wanted, start, identity, pace):
        began = time.monotonic()
        drawn = _count(counter, cells, identity.sample_block, progress)
        counts = counts + refuse_nan(drawn, cells, identity.dtype)
        yield counts
        pace.took(len(cells), time.monotonic() - began)


class _Pace:
    """How many cells are counted between two writes: a whole group, or of a slow network what takes some seconds.

    Every cell has noise of its own, so that the counts are the same however they are grouped.
    """

    def __init__(self, least: int | None, identity: Identity) -> None:
        self._most = identity.image_block
        self._least = min(least or self._most, self._most)
        self.cells = self._least

    def took(self, cells: int, seconds: float) -> None:
        """Set the next number by what the last one took: a multiple of the least, at most four times as many as now."""
        fitting = min(int(SECONDS_PER_WRITE * cells / max(seconds, 1e-9)), 4 * self.cells, self._most)
        self.cells = max(self._least, fitting - fitting % self._least)


class _Ticks:
    """Passes on what each batch counted, one thread at a time, and evens it out at the end of a group."""

    def __init__(self, progress: Callable[[int], object]) -> None:
        self._progress, self._told, self._lock = progress, 0, threading.Lock()

    def __call__(self, evaluations: int) -> None:
        with self._lock:
            self._told += evaluations
            self._progress(evaluations)

    def settle(self, counted: int) -> None:
        """Of all evaluations of the group, `counted` are done."""
        if counted != self._told:
            self(counted - self._told)


def _count(
    counter: Counter, cells: list[Cell], sample_block: int, progress: Callable[[int], object] | None
) -> np.ndarray:
    """The counts of `cells`; with half the batch size whenever memory runs out (the noise stays the same)."""
    tick = _Ticks(progress or ignore)
    while True:
        try:
            found = counter.count(cells, tick)
            tick.settle(len(cells) * sample_block)
            return found
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or counter.batch_size == 1:
                raise
        tick.settle(0)
        counter.batch_size = -(-counter.batch_size // 2)


def _groups(
    counts: np.ndarray, wanted: np.ndarray, start: int, identity: Identity, pace: _Pace
) -> Iterator[list[Cell]]:
    """The missing cells of an image block, sample block by sample block, in groups that are stored together."""
    done, needed = _samples(counts) // identity.sample_block, wanted // identity.sample_block
    cells = (
        Cell(int(row), start + int(row), block)
        for block in range(int(done.min()), int(needed.max()))
        for row in np.flatnonzero((done <= block) & (block < needed))
    )
    while group := list(islice(cells, pace.cells)):
        yield group


def _samples(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts.sum(axis=1, dtype=np.int64))


def _circumstances(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} {name}",
        "tf32": "False",  # no engine takes it; counts of before may have been drawn with it
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _check_engine(classifier: object, store: CountStore) -> None:
    got, expected = str(getattr(classifier, "engine", "")), store.identity.engine
    if got != expected:
        raise TrainerError(
            f"{store.path}, stream {store.identity.stream!r}: is counted by engine {expected!r}, got {got!r}; count with "
            "that one, or use a new store"
        )


def _check_fit(
    frames: np.ndarray | Inputs, store: CountStore, dtype: str | None, batch_size: int | None
) -> None:
    if isinstance(frames, Inputs):
        digests = frames.digests
    elif frames.dtype != np.uint8 or frames.ndim != 4:
        raise TrainerError(f"frames: got {frames.dtype} {list(frames.shape)}, expected uint8 [n, H, W, C]")
    else:
        digests = frame_digests(frames)
    if digests is None or len(frames) != store.identity.num_frames or (digests != store.digests).any():
        raise TrainerError(
            f"{store.path}, stream {store.identity.stream!r}: got {len(frames)} frames that are not the "
            f"{store.identity.num_frames} of the store; pass the same frames in the same order"
        )
    if dtype is not None and dtype != store.identity.dtype:
        raise TrainerError(
            f"dtype: got {dtype!r}, expected {store.identity.dtype!r} as in the store {store.path}; use a new store"
        )
    check_batch_size(batch_size)


def check_batch_size(batch_size: int | None) -> None:
    """Raises: TrainerError: no batch size."""
    if batch_size is not None and batch_size < 1:
        raise TrainerError(f"batch_size: got {batch_size}, expected at least 1, or None to have it chosen")
