"""What is measured side by side: the usual loop, noise alone, plain forward passes, and counting with its store."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.brought.user_code import out_of_memory
from rrise.trainer.montecarlo.engine_labeller import EngineLabeller
from rrise.trainer.montecarlo.noise import Cell, NoiseKey
from rrise.trainer.montecarlo.sampler import sample_counts
from rrise.trainer.montecarlo.storage.identity import IMAGE_BLOCK, SAMPLE_BLOCK
from rrise.trainer.montecarlo.storage.store import CountStore

LOOP_BATCH = 1000  # the default of locuslab's certify.py; of a slow network, as many as take a second
LONGEST = 4.0
"""Seconds that a single batch may take, from which on larger ones are not tried."""
SMALL_BLOCK = 10  # for slow networks, so that a round does not take minutes
SIGMA = 0.25


class Throughput(NamedTuple):
    """Evaluations per second of wall time, and per second of processor time (the same on a GPU)."""

    wall: float
    processor: float

    def over(self, other: Throughput) -> Throughput:
        """This in units of another."""
        return Throughput(self.wall / other.wall, self.processor / other.processor)


def usual_loop(
    classifier: Callable[[Tensor], Tensor],
    x: Tensor,
    num: int,
    batch_size: int,
    num_classes: int,
    sigma: float,
) -> np.ndarray:
    """locuslab's `Smooth._sample_noise` and `_count_arr`: class counts of one frame x [C, H, W]."""
    counts = np.zeros(num_classes, dtype=int)
    while num > 0:
        this_batch_size = min(batch_size, num)
        num -= this_batch_size
        batch = x.repeat((this_batch_size, 1, 1, 1))
        noise = torch.randn_like(batch) * sigma
        predictions = classifier(batch + noise).argmax(1)
        for index in predictions.cpu().numpy():
            counts[index] += 1
    return counts


class _Enough(Exception):
    """Ends a counting that has run for long enough to be timed."""


#: Runs for about so many seconds and returns evaluations per second.
Contender = Callable[[float], Throughput]


class Logits(nn.Module):
    """An engine as a module, for the usual loop of a base classifier that is an ONNX file from the beginning."""

    def __init__(self, labeller: EngineLabeller) -> None:
        super().__init__()
        self._labeller = labeller

    def forward(self, x: Tensor) -> Tensor:
        return self._labeller.logits(x)


def loop_contender(classifier: nn.Module, x: Tensor, num_classes: int, seconds: float) -> Contender:
    """The usual loop on one frame x [C, H, W], with as large a batch as takes a second."""
    module = classifier if isinstance(classifier, Logits) else copy.deepcopy(classifier).eval().to(x.device)
    start = time.perf_counter()
    usual_loop(module, x, 8, 8, num_classes, SIGMA)
    _wait(x.device)
    batch = min(LOOP_BATCH, max(8, int(8 * seconds / (time.perf_counter() - start))))

    def run() -> int:
        usual_loop(module, x, batch, batch, num_classes, SIGMA)
        return batch

    return _repeated(run, x.device)


def noise_contender(numel: int, num_classes: int) -> Contender:
    """What every counted evaluation pays for its noise on a CPU, whichever engine labels it."""
    cell, rows = Cell(0, 0, 0), max(1, min(SAMPLE_BLOCK, (1 << 16) // numel))
    buffer, frame = np.empty((rows, numel), np.float32), np.zeros(numel, np.float32)
    key, block = NoiseKey(0, "benchmark"), [0]

    def run() -> int:
        generator = key.generator(cell.frame, block[0], 0)
        block[0] += 1
        generator.standard_normal(out=buffer, dtype=np.float32)
        np.multiply(buffer, np.float32(SIGMA), out=buffer)
        np.add(buffer, frame, out=buffer)
        return rows

    return _repeated(run, torch.device("cpu"))


def _plain(labeller: EngineLabeller, x: Tensor, size: int, workers: int) -> Contender:
    """Forward passes on resident batches of `size`: one at a time, or one per worker thread."""
    noisy = x + SIGMA * torch.randn(size, *x.shape[1:], device=x.device)
    resident = [noisy.clone() for _ in range(workers)]
    labeller(resident[0][: max(2, min(size, 16))])  # its checks of a first batch

    @torch.inference_mode()
    def forward(batch: Tensor) -> None:
        labeller.logits(batch)

    def alone() -> int:
        forward(resident[0])
        return size

    if workers == 1:
        return _repeated(alone, x.device)

    def measure(seconds: float) -> Throughput:
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:

            def together() -> int:
                list(pool.map(forward, resident))
                return size * workers

            rate = _repeated(together, x.device)(seconds)
        torch.set_num_threads(threads)  # one setting for the whole process
        return rate

    return measure


def fastest_plain(
    labeller: EngineLabeller, x: Tensor, sizes: tuple[int, ...], seconds: float
) -> tuple[Contender, str]:
    """The fastest over batch sizes, and threads that share a batch or have one each."""
    threads = torch.get_num_threads() if x.device.type == "cpu" else 1
    best: tuple[float, Contender, str] | None = None
    for size in sizes:
        for workers in sorted({1, threads if labeller.concurrent else 1}):
            if best is not None and size * workers > LONGEST * best[0]:
                continue
            try:
                contender = _plain(labeller, x, size, workers)
                rate = contender(seconds).wall
            except (RuntimeError, MemoryError) as error:
                if best is None or not out_of_memory(error):
                    raise
                continue
            if best is None or rate > best[0]:
                each = ", one per thread" if workers > 1 else ""
                best = (rate, contender, f"batches of {size}{each}")
    assert best is not None
    return best[1], best[2]


def counting_contender(
    labeller: EngineLabeller,
    preprocess: nn.Module,
    frames: np.ndarray,
    dtype: str,
    device: torch.device,
    batch_size: int | None,
) -> Contender:
    """sample_counts on a new store, timed from its first stored block to its last: noise, counting and storing."""
    digests = frame_digests(frames)
    speed = [0.0]

    def count(block: int, groups: int, longest: float) -> Throughput:
        """Rate over `groups` groups of one image block each, after a first batch that warms up; `longest` seconds of it."""
        number = min(len(frames), groups + 1)
        num_samples = block * -(-(groups + 1) * IMAGE_BLOCK // number)
        stored: list[tuple[float, float, int]] = []

        def note(evaluations: int) -> None:
            stored.append((time.perf_counter(), time.process_time(), evaluations))
            if len(stored) > 2 and stored[-1][0] - stored[0][0] > longest:
                raise _Enough

        with tempfile.TemporaryDirectory() as folder:
            store = CountStore.open(
                f"{folder}/t.zarr", stream="benchmark", digests=digests[:number], num_classes=labeller.num_classes,
                sigma=SIGMA, seed=0, base_digest="0" * 64, dtype=dtype, sample_block=block, engine=labeller.engine,
            )  # fmt: skip
            with suppress(_Enough):
                sample_counts(
                    labeller, preprocess, frames[:number], store, num_samples, batch_size=batch_size, device=device,
                    progress=note,
                )  # fmt: skip
        done = sum(evaluations for _, _, evaluations in stored[1:])
        return _rate(done, stored[-1][0] - stored[0][0], stored[-1][1] - stored[0][1], device)

    def run(seconds: float) -> Throughput:
        speed[0] = speed[0] or count(SMALL_BLOCK, 1, seconds).wall
        block = SAMPLE_BLOCK if speed[0] * seconds > SAMPLE_BLOCK * IMAGE_BLOCK else SMALL_BLOCK
        rate = count(block, max(1, round(speed[0] * seconds / (block * IMAGE_BLOCK))), 2 * seconds)
        speed[0] = rate.wall
        return rate

    return run


def _repeated(run: Callable[[], int], device: torch.device) -> Contender:
    """Call `run` until the time is up, after one call to warm up."""

    def measure(seconds: float) -> Throughput:
        run()
        _wait(device)
        start, busy, done = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds or not done:
            done += run()
            _wait(device)
        return _rate(done, time.perf_counter() - start, time.process_time() - busy, device)

    return measure


def _rate(done: int, wall: float, processor: float, device: torch.device) -> Throughput:
    per_second = done / max(wall, 1e-9)
    return Throughput(per_second, done / max(processor, 1e-9) if device.type == "cpu" else per_second)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
