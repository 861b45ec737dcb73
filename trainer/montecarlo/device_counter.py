"""Counts one group of cells on a device: noise, forward pass and counting in one step that never waits for the host.

A step reads its place in the group from a device tensor and moves it on, so a group is the same step over and over,
which a CUDA graph can replay; the host waits once per group, for the counts. Every step has the same shape: rows past
the end of the group are computed and not counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from rrise.trainer.brought.user_code import describe_error, out_of_memory
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.classifier import Labeller
from rrise.trainer.montecarlo.counter import Tick, equal_batches, ignore
from rrise.trainer.montecarlo.noise import Cell, NoiseKey
from rrise.trainer.montecarlo.philox import normals
from rrise.trainer.montecarlo.storage.identity import Identity

log = logging.getLogger(__name__)

SMALLEST_TRIAL = 32
# A larger batch must be this much faster to be worth its memory.
WORTHWHILE = 1.03
TRIAL_SECONDS, LONGEST_STEP = 0.25, 0.5
"""About how long a batch size is tried, and the length of a step from which on no larger one is."""

FOUND: WeakKeyDictionary[Labeller, dict[tuple[int, ...], int]] = WeakKeyDictionary()
"""Batch sizes that were found by trial, of every labeller by the shape of its inputs and the size of a group."""


class DeviceCounter:
    """The counter for a GPU (it runs on a CPU too, where tests exercise it).

    compile_noise: fuse the noise into one kernel; graphs: replay steps as a CUDA graph. None: where it is available.
    """

    def __init__(
        self,
        labeller: Labeller,
        identity: Identity,
        batch_size: int | None,
        device: torch.device,
        *,
        compile_noise: bool | None = None,
        graphs: bool | None = None,
    ) -> None:
        self._labeller, self._identity, self.device = labeller, identity, device
        # Another number of cells is another captured graph, so groups stay whole.
        self.least_cells: int | None = None
        on_cuda = device.type == "cuda"
        capturable = bool(getattr(labeller, "capturable", True))
        self._graphs = on_cuda and capturable if graphs is None else graphs
        words = NoiseKey(identity.seed, identity.stream).words()
        self._key = torch.tensor(words[:2], dtype=torch.int64, device=device)
        self._sigma = torch.tensor(identity.sigma, dtype=torch.float32, device=device)
        self._noisy = noisy_copies
        if (on_cuda and _has_triton()) if compile_noise is None else compile_noise:
            # Not for one batch size: after a few of them (each stream tries several) PyTorch gives up compiling.
            self._noisy = torch.compile(noisy_copies)
        self._wanted, self.batch_size = batch_size, batch_size or 1
        self._step: Callable[[], None] | None = None
        self._step_size = 0
        self._frames = torch.empty(0, device=device)
        self._rows = 0

    def load(self, frames: Tensor) -> None:
        """Take the preprocessed frames of an image block, float32 [rows, C, H, W], on the device."""
        with _current(self.device):
            self._load(frames)

    def _load(self, frames: Tensor) -> None:
        if not len(self._frames):
            self._allocate(frames)
            self._check_noise()
        # The static buffer keeps its address, which a captured graph has baked in.
        self._rows = len(frames)
        self._frames[: self._rows].copy_(frames.permute(0, 2, 3, 1))
        if self._wanted is None:
            largest = self._identity.image_block * self._identity.sample_block
            known, place = FOUND.setdefault(self._labeller, {}), (*self._frames.shape[1:], largest)
            if place not in known:
                known[place] = self._find_batch_size(largest)
            self._wanted = self.batch_size = known[place]

    def _allocate(self, frames: Tensor) -> None:
        rows, channels, height, width = frames.shape
        rows = max(rows, self._identity.image_block)
        self._frames = torch.zeros(rows, height, width, channels, device=self.device)
        self._cells = torch.zeros(3, rows, dtype=torch.int64, device=self.device)
        self._place = torch.zeros(
            2, dtype=torch.int64, device=self.device
        )  # next evaluation, number of evaluations
        columns = self._identity.num_classes + 1
        self._counts = torch.zeros(rows * columns, dtype=torch.int64, device=self.device)

    def _check_noise(self) -> None:
        """Give up compiled noise for the plain one where it cannot be compiled, as without a C compiler."""
        if self._noisy is noisy_copies:
            return
        row, frame, sample = torch.zeros(
            3, self._wanted or SMALLEST_TRIAL, dtype=torch.int64, device=self.device
        )
        try:  # the samples as a tensor of their own, as in every step
            self._noisy(self._frames, row, frame, sample + 0, self._sigma, self._key)
        except Exception as error:  # compilers raise whatever they like
            if out_of_memory(error):
                raise
            log.warning(
                "the noise cannot be compiled here (%s); it is drawn uncompiled", describe_error(error)
            )
            self._noisy = noisy_copies

    def count(self, cells: list[Cell], tick: Tick = ignore) -> np.ndarray:
        """Class counts of `cells`, int64 [rows, K + 1]; the last column counts outputs that were NaN.

        Steps run behind the program's back, so that a tick after each would tell when it was asked for: there is none.

        Raises TrainerError where they do not add up to the evaluations that were asked for, which nothing but a defect explains.
        """
        with _current(self.device):
            counts, asked = self._count(cells), len(cells) * self._identity.sample_block
        if counts.sum() != asked:
            raise TrainerError(
                f"counting on {self.device}: got {counts.sum()} evaluations, expected {asked}; nothing was stored. Count on the "
                "processor (--device cpu)"
            )
        return counts

    def _count(self, cells: list[Cell]) -> np.ndarray:
        total = len(cells) * self._identity.sample_block
        size = equal_batches(total, self.batch_size)
        self._prepare(size)
        table = torch.tensor([[c.row, c.frame, c.sample_block] for c in cells], dtype=torch.int64).T
        self._cells[:, : len(cells)].copy_(table)
        self._place.copy_(torch.tensor([0, total]))
        self._counts.zero_()
        assert self._step is not None
        for _ in range(0, total, size):
            self._step()
        return self._counts.view(-1, self._identity.num_classes + 1)[: self._rows].cpu().numpy()

    def _prepare(self, size: int) -> None:
        """Make the step for batches of `size`, as a captured graph where that works."""
        if self._step is not None and self._step_size == size:
            return
        offsets = torch.arange(size, device=self.device)

        def step() -> None:
            self._evaluate(offsets)

        self._step, self._step_size = step, size
        if self._graphs:
            try:
                self._step = _captured(step)
            except (RuntimeError, TrainerError) as error:  # the latter from within the network
                if out_of_memory(error):
                    self._step = None
                    raise
                log.warning(
                    "this network cannot be captured as a CUDA graph (%s); it runs step by step", error
                )
                self._graphs = False

    def _evaluate(self, offsets: Tensor) -> None:
        block, columns = self._identity.sample_block, self._identity.num_classes + 1
        evaluation = self._place[0] + offsets
        inside = evaluation < self._place[1]
        # Past the end (and in trials of the batch size, which have no cells) any cell will do.
        cell = (evaluation // block).clamp(max=self._cells.shape[1] - 1)
        row, frame, sample_block = self._cells[:, cell]
        sample = sample_block * block + evaluation % block
        x = self._noisy(self._frames, row, frame, sample, self._sigma, self._key)
        labels = self._labeller(x)
        self._counts.scatter_add_(0, row * columns + labels, inside.to(torch.int64))
        self._place[0] += len(offsets)

    def _find_batch_size(self, largest: int) -> int:
        """Double the batch while that pays; at most one group, `largest`, and less than what runs out of memory."""
        best, best_rate = 1, 0.0
        size = min(SMALLEST_TRIAL, largest)
        while True:
            try:
                rate = self._rate(size)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or best_rate == 0.0:
                    raise
                break
            if rate < WORTHWHILE * best_rate:
                break
            best, best_rate = size, rate
            if size == largest or size / rate > LONGEST_STEP:
                break
            size = min(2 * size, largest)
        self._step = None
        return best

    def _rate(self, size: int) -> float:
        """Evaluations per second in batches of `size`."""
        self._prepare(size)
        self._cells.zero_()
        self._seconds(size, 1)  # warms up
        once = self._seconds(size, 1)
        repeats = int(min(8, TRIAL_SECONDS / once))
        return size / once if repeats < 2 else size * repeats / self._seconds(size, repeats)

    def _seconds(self, size: int, repeats: int) -> float:
        assert self._step is not None
        self._place.copy_(torch.tensor([0, size * repeats]))
        start = time.perf_counter()
        for _ in range(repeats):
            self._step()
        int(self._place[0])  # waits for the device
        return max(time.perf_counter() - start, 1e-9)

    def close(self) -> None:
        """Release the graph and its memory."""
        self._step = None


def noisy_copies(
    frames: Tensor, row: Tensor, frame: Tensor, sample: Tensor, sigma: Tensor, key: Tensor
) -> Tensor:
    """float32 [B, C, H, W], channels_last: frames[row] + sigma * noise of (key, frame, sample), summed in float32.

    frames: float32 [rows, H, W, C]. Nothing in here is a Python number that differs between streams, so that one
    compiled kernel serves all of them.
    """
    height, width, channels = frames.shape[1:]
    noise = normals(frame, sample, height * width * channels, key)
    noisy = frames[row] + sigma * noise.view(-1, height, width, channels)
    return noisy.permute(0, 3, 1, 2)


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """`step` as a CUDA graph, after the warm-up on a side stream that capturing asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # A capture that fails leaves its own stream the current one. Thread-local: other threads may go on allocating.
    with (
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(graph, capture_error_mode="thread_local"),
    ):
        step()
    return graph.replay


def _current(device: torch.device) -> AbstractContextManager[object]:
    """The device as the current one, whose streams and graphs PyTorch makes: on another one nothing would be captured."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _has_triton() -> bool:
    try:
        import triton  # noqa: F401  (torch.compile needs it on a GPU)
    except ImportError:
        return False
    return True
