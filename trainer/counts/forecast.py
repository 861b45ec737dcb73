"""What Monte Carlo will take, said beforehand: evaluations, and time by a short measurement of the engine that counts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from rrise.calibration.console import duration
from rrise.trainer.counts.counting import Counting, noisy_batch
from rrise.trainer.workspace import Workspace

SECONDS = 0.3
"""How long is measured; a single batch, where that takes longer."""


@dataclass(frozen=True)
class Forecast:
    """evaluations: still to be drawn. seconds: about how long that takes here, None where nothing was measured."""

    evaluations: int
    seconds: float | None = None

    def __str__(self) -> str:
        about = "" if self.seconds is None else f", about {duration(self.seconds)}"
        return f"{self.evaluations:,} evaluations of the base classifier{about}"


def forecast(workspace: Workspace, counting: Counting, device: torch.device, evaluations: int) -> Forecast:
    """What `evaluations` will take by this engine."""
    if not evaluations:
        return Forecast(0, 0.0)
    return Forecast(evaluations, evaluations / _rate(workspace, counting, device))


@torch.inference_mode()
def _rate(workspace: Workspace, counting: Counting, device: torch.device) -> float:
    """Evaluations a second: those of one thread, times the threads that count side by side."""
    batch, threads = noisy_batch(workspace, device), torch.get_num_threads()
    together = threads if device.type == "cpu" and counting.labeller.concurrent else 1
    if together > 1:
        torch.set_num_threads(1)
    try:
        _timed(counting, batch)  # the first batch decides how the network is run
        seconds, done = _timed(counting, batch), 1
        while seconds < SECONDS:
            seconds, done = seconds + _timed(counting, batch), done + 1
    finally:
        torch.set_num_threads(threads)
    return together * done * len(batch) / max(seconds, 1e-9)


def _timed(counting: Counting, batch: torch.Tensor) -> float:
    start = time.perf_counter()
    counting.labeller(batch)
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)
    return time.perf_counter() - start
