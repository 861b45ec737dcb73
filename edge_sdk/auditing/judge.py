"""Is one certificate right? A sequential test on fresh noise with the base classifier, paced."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from typing import Callable, Optional

import numpy as np

from rrise.edge_sdk.confirming.classifier import labels_from_output
from rrise.edge_sdk.confirming.question import Question
from rrise.edge_sdk.errors import EdgeError


class Verdict(str, Enum):
    """What an audit found. Everything but WRONG counts as right."""

    RIGHT = "right"
    WRONG = "wrong"
    UNDECIDED = "undecided"
    LOST = "lost"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Judgement:
    """A verdict and the evaluations of the base classifier that it took."""

    verdict: Verdict
    samples: int


class Pace:
    """At most `rate` evaluations a second: after a batch of B, the next one begins B / rate seconds later or never."""

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (math.isfinite(rate) and rate > 0):
            raise EdgeError(f"audit: got a rate of {rate}, expected evaluations per second above 0")
        self.rate, self._clock, self._sleep = rate, clock, sleep
        self._next = -math.inf

    def wait(self, batch: int) -> None:
        """Wait until `batch` evaluations may be made."""
        while self._clock() < self._next:
            self._sleep(max(self._next - self._clock(), 0.0))
        self._next = self._clock() + batch / self.rate


def judge_certificate(
    classify: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    label: int,
    radius: float,
    *,
    sigma: float,
    slip: float,
    max_samples: int,
    batch_size: int,
    tolerance: float = 0.0,
    pace: Optional[Pace] = None,
    generator: Optional[np.random.Generator] = None,
) -> Judgement:
    """Compare the base classifier's probability of `label` under noise with Phi(radius / sigma).

    Args:
        classify: float32 [batch_size, C, h, w] -> logits [batch_size, K] or labels int [batch_size].
        x: float32 [C, h, w] in [0, 1], the preprocessed frame. label, radius: of the certificate, which was issued
            without the samples drawn here; radius > 0 in [0, 1] pixel units.
        max_samples: evaluations after which an open question stays open; rounded up to full batches.
        tolerance: t by which the classifier's probabilities may differ from those of the engine that the certificate
            speaks of: a radius is wrong only if it is wrong by more than that.
        generator: of the noise; None = seeded by the operating system.

    **Guarantee**: a certificate whose radius does not exceed the true one is called wrong with probability at most
    `slip`, over the noise drawn here, where the two engines' probabilities of the label differ by at most `tolerance`.

    Raises:
        EdgeError: the classifier returns NaN, or neither logits nor labels.
    """
    noise = generator if generator is not None else np.random.default_rng()
    question = Question(label, radius, sigma=sigma, alpha=slip, tolerance=tolerance)
    batch = np.empty((batch_size, *x.shape), dtype=np.float32)
    while question.samples < max_samples:
        if pace is not None:
            pace.wait(batch_size)
        noise.standard_normal(out=batch, dtype=np.float32)
        batch *= np.float32(sigma)
        batch += x
        question.add(labels_from_output(classify(batch), batch_size))
        if question.refuted:
            return Judgement(Verdict.WRONG, question.samples)
        if question.confirmed:
            return Judgement(Verdict.RIGHT, question.samples)
    return Judgement(Verdict.UNDECIDED, question.samples)
