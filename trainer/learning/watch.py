"""What is told about a training while it runs: losses, time, and measurements on the tuning split."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.journal import Journal

if TYPE_CHECKING:
    from rrise.trainer.learning.engine import Engine


REPORT_EVERY = 2.0
"""Seconds between entries of the journal, at which a GPU is asked for its losses."""
MEASURE_SHARE = 0.03
"""Largest share of the time that goes into measuring on the tuning split."""
Measure = Callable[[nn.Module], dict[str, float]]
"""Values of the network in eval mode, for the journal; draws nothing from the generators of the training."""


class Watch:
    """Losses, time and measurements of a training while it runs."""

    def __init__(self, engine: Engine, journal: Journal, measure: Measure | None) -> None:
        self.engine, self.journal, self._measure = engine, journal, measure
        self._losses: list[Tensor] = []
        now = time.monotonic()
        self._spent_before, self._start = engine.position.seconds, now
        self._reported = self._saved = now
        self._began_with = engine.position.examples
        self._longest = self._measuring = self._writing = 0.0
        self._measured = -math.inf

    def took(self, loss: Tensor) -> None:
        """A step was taken; at the right moments its loss is looked at."""
        self._losses.append(loss)
        done = self.engine.position.steps
        if done % self.engine.per_epoch == 0 or time.monotonic() - self._reported > REPORT_EVERY:
            self.report()

    def report(self, last: bool = False) -> None:
        """Enter what happened since the last report.

        Raises TrainerError where a loss is not finite.
        """
        now, engine = time.monotonic(), self.engine
        if self._losses:
            values = torch.stack(self._losses).tolist()
            self._longest = max(self._longest, (now - self._reported) / len(values))
            self._losses.clear()
            self._check(values)
            self._add(values)
            self._enter(values, now)
        engine.position = replace(engine.position, seconds=self._spent_before + now - self._start)
        self._reported = time.monotonic()

    def _check(self, values: list[float]) -> None:
        engine = self.engine
        bad = next((value for value in values if not math.isfinite(value)), None)
        if bad is not None:
            epoch = (engine.position.steps - 1) // engine.per_epoch + 1
            raise TrainerError(
                f"{self.journal.label}: the loss became {bad} in epoch {epoch}, expected a finite number; lower "
                "the learning_rate, or set clip = 1 (nothing was overwritten)"
            )

    def _add(self, values: list[float]) -> None:
        """Into the mean of the epoch; the first entry after the end of an epoch begins a new one."""
        done = self.engine.position
        fresh = (done.steps - len(values)) % self.engine.per_epoch == 0
        before, count = (0.0, 0) if fresh else (done.loss_sum, done.loss_steps)
        for value in values:  # one by one: the sum must not depend on when reports were made
            before += value
        self.engine.position = replace(done, loss_sum=before, loss_steps=count + len(values))

    def _enter(self, values: list[float], now: float) -> None:
        engine, done = self.engine, self.engine.position
        rate = (done.examples - self._began_with) / max(now - self._start, 1e-9)
        left = (engine.steps * engine.size - done.examples) / max(rate, 1e-9)
        entry = {
            "epoch": round(done.steps / engine.per_epoch, 4),
            "steps": float(engine.steps),
            "loss": sum(values) / len(values),
            "learning_rate": engine.schedule.rate((done.steps - 1) / engine.steps),
            "examples_per_second": round(rate, 2),
            "seconds_left": round(left, 1),
        }
        ended = done.steps % engine.per_epoch == 0
        self.journal.write(done.steps, **entry, **self._measurement(now, ended))

    def _measurement(self, now: float, ended: bool) -> dict[str, float]:
        """Values of the network, as often as their cost allows, at ends of epochs."""
        engine = self.engine
        pause = self._measuring / MEASURE_SHARE
        if self._measure is None or not engine.session.first or not ended or now - self._measured < pause:
            return {}
        network = engine.state.average.network if engine.state.average is not None else engine.network
        network.eval()
        found = self._measure(network)
        engine.network.train()
        self._measured = time.monotonic()
        self._measuring = self._measured - now
        return found

    def since_saving(self) -> float:
        return time.monotonic() - self._saved

    def saved(self) -> None:
        now = time.monotonic()
        self._writing = max(self._writing, now - self._reported)
        self._saved = self._reported = now

    def reserve(self) -> float:
        """Seconds to keep for a last step and for writing."""
        return 2.0 * (self._longest + self._writing)
