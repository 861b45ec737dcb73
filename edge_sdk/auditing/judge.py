"""Is one certificate right? A sequential test on fresh noise with the base classifier, paced."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from typing import Callable, Optional

import numpy as np

from rrise.calibration.statistics.sequential import SequentialTest, lower_confidence_sequence
from rrise.edge_sdk.auditing.verified import labels_of
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


def judge(
    classify: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    label: int,
    radius: float,
    *,
    sigma: float,
    slip: float,
    max_samples: int,
    batch_size: int,
    pace: Optional[Pace] = None,
    generator: Optional[np.random.Generator] = None,
) -> Judgement:
    """Compare the base classifier's probability of `label` under noise with Phi(radius / sigma).

    Args:
        classify: float32 [batch_size, C, h, w] -> logits [batch_size, K] or labels int [batch_size].
        x: float32 [C, h, w] in [0, 1], the preprocessed frame. label, radius: of the certificate, which was issued
            without the samples drawn here; radius > 0 in [0, 1] pixel units.
        max_samples: evaluations after which an open question stays open; rounded up to full batches.
        generator: of the noise; None = seeded by the operating system.

    **Guarantee**: a certificate whose radius does not exceed the true one is called wrong with probability at most
    `slip`, over the noise drawn here.

    Raises:
        EdgeError: the classifier returns NaN, or neither logits nor labels.
    """
    noise = generator if generator is not None else np.random.default_rng()
    # p_label >= Phi(radius / sigma) is the same as p_miss <= Phi(-radius / sigma); rounded in the certificate's favour.
    allowed = 0.5 * math.erfc(radius / sigma / math.sqrt(2.0)) * (1.0 + 1e-9)
    test = SequentialTest(sigma, slip)
    batch = np.empty((batch_size, *x.shape), dtype=np.float32)
    hits = samples = 0
    while samples < max_samples:
        if pace is not None:
            pace.wait(batch_size)
        noise.standard_normal(out=batch, dtype=np.float32)
        batch *= np.float32(sigma)
        batch += x
        hits += int((labels_of(classify(batch), batch_size) == label).sum())
        samples += batch_size
        if float(lower_confidence_sequence(samples - hits, samples, slip)) > allowed:
            return Judgement(Verdict.WRONG, samples)
        if bool(test.confirms(np.asarray(radius), hits, samples)):
            return Judgement(Verdict.RIGHT, samples)
    return Judgement(Verdict.UNDECIDED, samples)
