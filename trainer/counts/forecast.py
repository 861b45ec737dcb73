"""What Monte Carlo will take, said beforehand: evaluations, and time by a short measurement of the engine that counts."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

import torch

from rrise.calibration.console import duration
from rrise.trainer.counts.counting import Counting
from rrise.trainer.montecarlo.classifier import Labeller
from rrise.trainer.montecarlo.counter import HostCounter, usual_batch
from rrise.trainer.montecarlo.noise import Cell
from rrise.trainer.montecarlo.storage.identity import Identity
from rrise.trainer.workspace import Workspace

SECONDS = 0.4
"""How long is measured; one batch of each thread, where that takes longer."""
PATIENCE = 10
"""How many times as long processor time may take to come by on a machine that others use."""
MEASURED_FRAMES, MOST_BLOCKS = 8, 1000
"""Frames that are counted for it, and blocks of samples of each: more than any machine counts in that time."""


@dataclass(frozen=True)
class Forecast:
    """evaluations: still to be drawn. seconds: about how long that takes here, None where nothing was measured."""

    evaluations: int
    seconds: float | None = None

    def __str__(self) -> str:
        about = "" if self.seconds is None else f", about {duration(self.seconds)}"
        return f"{self.evaluations:,} evaluations of the base classifier{about}"


def forecast(workspace: Workspace, counting: Counting, evaluations: int) -> Forecast:
    """What `evaluations` will take by this engine."""
    if not evaluations:
        return Forecast(0, 0.0)
    rate = counting_rate(
        counting.labeller,
        workspace.inputs("tuning")[:MEASURED_FRAMES].to(counting.device),
        sigma=workspace.config.smoothing.sigma,
        num_classes=len(workspace.dataset.class_names),
        dtype=workspace.config.targets.dtype,
        device=counting.device,
    )
    return Forecast(evaluations, evaluations / rate)


def counting_rate(
    labeller: Labeller,
    frames: torch.Tensor,
    *,
    sigma: float,
    num_classes: int,
    dtype: str,
    device: torch.device,
    alone: bool = False,
) -> float:
    """Evaluations a second, by counting for a moment: noise, network and counts, on all threads side by side.

    Threads of one machine share its caches and often its cores, so that two are seldom twice as fast as one.
    frames: float32 [n, C, h, w] on `device`. alone: as if nothing else ran on the machine, by processor time; on a CPU only.
    """
    if device.type != "cpu":
        return _labelling_rate(labeller, frames, device)
    identity = Identity.unstored(
        "forecast", len(frames), num_classes=num_classes, sigma=sigma, seed=0, dtype=dtype
    )
    counter, watch = HostCounter(labeller, identity, None), _Watch(alone)
    cells = [Cell(row, row, block) for block in range(MOST_BLOCKS) for row in range(len(frames))]
    try:
        counter.load(frames)
        with contextlib.suppress(_Enough):
            counter.count(cells, watch.tick)
    finally:
        counter.close()
    return watch.rate(counter.least_cells or 1)


class _Enough(Exception):
    """The moment is over."""


class _Watch:
    """Notes when each batch was done, and ends the counting after SECONDS."""

    def __init__(self, alone: bool) -> None:
        self._clock = time.process_time if alone else time.perf_counter
        self._alone, self._latest = alone, time.perf_counter() + (PATIENCE if alone else 1) * SECONDS
        self._start, self._lock = self._clock(), threading.Lock()
        self._ticks: list[tuple[float, int]] = []

    def tick(self, evaluations: int) -> None:
        with self._lock:
            self._ticks.append((self._clock(), evaluations))
        if self._clock() > self._start + SECONDS or time.perf_counter() > self._latest:
            raise _Enough

    def rate(self, threads: int) -> float:
        """Evaluations a second without the first batch of each thread; of slow networks there is no other."""
        first = threads if len(self._ticks) > 2 * threads else 0
        start = self._ticks[first - 1][0] if first else self._start
        done = sum(count for _, count in self._ticks[first:])
        seconds = (self._ticks[-1][0] - start) / (threads if self._alone else 1)
        return done / max(seconds, 1e-9)


@torch.inference_mode()
def _labelling_rate(labeller: Labeller, frames: torch.Tensor, device: torch.device) -> float:
    """Of a GPU, whose counter would first have to find its batch and record its graph: the network alone."""
    batch = frames.repeat(-(-usual_batch(frames[0].numel()) // len(frames)), 1, 1, 1)
    _labelled(labeller, batch, device)  # the first batch decides how the network is run
    seconds, done = _labelled(labeller, batch, device), 1
    while seconds < SECONDS:
        seconds, done = seconds + _labelled(labeller, batch, device), done + 1
    return done * len(batch) / max(seconds, 1e-9)


def _labelled(labeller: Labeller, batch: torch.Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    labeller(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
