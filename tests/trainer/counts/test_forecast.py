"""What Monte Carlo will take: measured as it is counted, with all threads at once."""

from __future__ import annotations

import threading
import time

import torch

from rrise.trainer.counts.forecast import SECONDS, counting_rate

PAUSE = 0.004


class OneAtATime:
    """A labeller whose calls cannot overlap, as those of threads that share one core cannot."""

    concurrent = True

    def __init__(self) -> None:
        self._lock, self.largest, self.threads = threading.Lock(), 0, set[int]()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with self._lock:
            self.largest = max(self.largest, len(x))
            self.threads.add(threading.get_ident())
            time.sleep(PAUSE)
        return torch.zeros(len(x), dtype=torch.int64)


def measured(labeller: OneAtATime) -> float:
    frames = torch.rand(4, 1, 4, 4)
    return counting_rate(
        labeller, frames, sigma=0.25, num_classes=3, dtype="float32", device=torch.device("cpu")
    )


def test_threads_that_wait_for_each_other_are_not_counted_twice() -> None:
    before, start = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(3)
    try:
        labeller = OneAtATime()
        rate = measured(labeller)
    finally:
        torch.set_num_threads(before)
    assert len(labeller.threads) >= 3
    # A call takes at least PAUSE, and no other runs beside it; a busy machine only makes it longer.
    assert 0 < rate <= 1.02 * labeller.largest / PAUSE
    assert time.monotonic() - start < 10 + SECONDS


def test_a_network_whose_single_batch_takes_longer_than_the_moment_is_measured_by_it(monkeypatch) -> None:
    monkeypatch.setattr("rrise.trainer.counts.forecast.SECONDS", PAUSE / 4)
    labeller = OneAtATime()
    assert 0 < measured(labeller) <= 1.02 * labeller.largest / PAUSE
