"""Which input needs how many more samples: the bookkeeping of the verified tier. It never runs a model.

A device works best on full batches, and inputs finish after very different numbers of samples. So the samples of all
open inputs share every batch, and the place of one that finishes goes to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.sequential import SequentialTest

# An input takes part with at least this many samples in a batch: fewer would only spread the work.
_SHARE = 16


@dataclass(frozen=True)
class Verified:
    """The verified tier's answer for n inputs.

    radius: float32 [n], confirmed at the test's level for each input; 0 = abstain. label: int64 [n].
    proposed: float32 [n], what was asked. samples: int64 [n], evaluations spent.
    """

    label: np.ndarray
    radius: np.ndarray
    proposed: np.ndarray
    samples: np.ndarray

    @property
    def confirmed(self) -> np.ndarray:
        """Whether the whole proposal was confirmed, bool [n]."""
        return np.asarray((self.radius > 0) & (self.radius == self.proposed))


class ProposalQueue:
    """Open proposals and their counts so far.

    Args:
        label: int64 [n], proposed labels. radius: [n], proposed radii, [0, 1] pixel units; 0 = nothing to confirm.
        Both must be chosen without the samples that are recorded here.
        max_samples: per input; then the largest step that is confirmed is what the input gets.
        hopeless: an input whose wealth fell below this is given up early (costs power, never validity).

    Use: while not done: rows = next_batch(B); evaluate those inputs under fresh noise; record(rows, labels).
    """

    def __init__(
        self,
        test: SequentialTest,
        label: np.ndarray,
        radius: np.ndarray,
        max_samples: int = 100_000,
        hopeless: float = 1e-3,
    ) -> None:
        self.test, self._max = test, int(max_samples)
        self._label = np.asarray(label, dtype=np.int64)
        self._radius = np.asarray(radius, dtype=np.float32)
        if self._label.shape != self._radius.shape or self._label.ndim != 1:
            raise CalibrationError(
                f"verification: got labels {self._label.shape} and radii {self._radius.shape}, expected [n] twice"
            )
        if not (np.isfinite(self._radius) & (self._radius >= 0)).all():
            raise CalibrationError(
                "verification: got radii that are negative or not finite; propose radii >= 0"
            )
        if self._max < 1:
            raise CalibrationError(f"verification: got max_samples {max_samples}, expected at least 1")
        self._floor = float(np.log(hopeless))
        self._hits = np.zeros(len(self._label), dtype=np.int64)
        self._samples = np.zeros(len(self._label), dtype=np.int64)
        self._open = self._radius > 0

    @property
    def done(self) -> bool:
        """Whether every input has its answer."""
        return not self._open.any()

    def next_batch(self, batch_size: int) -> np.ndarray:
        """The inputs to evaluate next, int64 [at most batch_size], in order; each as often as it appears."""
        waiting = np.flatnonzero(self._open)[: max(1, batch_size // _SHARE)]
        if not len(waiting):
            return waiting
        share, extra = divmod(batch_size, len(waiting))
        times = np.full(len(waiting), share) + (np.arange(len(waiting)) < extra)
        return np.repeat(waiting, np.minimum(times, self._max - self._samples[waiting]))

    def record(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Count the labels int [len(rows)] that the base classifier gave."""
        if np.shape(labels) != np.shape(rows):
            raise CalibrationError(
                f"verification: got {np.shape(labels)} labels for {np.shape(rows)} evaluations; record every one"
            )
        np.add.at(self._samples, rows, 1)
        np.add.at(self._hits, rows, (np.asarray(labels) == self._label[rows]).astype(np.int64))
        seen = np.unique(rows)
        wealth = self.test.log_wealth(self._radius[seen], self._hits[seen], self._samples[seen])
        finished = wealth >= -np.log(self.test.alpha)
        finished |= (wealth < self._floor) | (self._samples[seen] >= self._max)
        self._open[seen[finished]] = False

    def result(self) -> Verified:
        """The answers; inputs that are still open get what is confirmed so far."""
        radius = self.test.largest_confirmed(self._radius, self._hits, self._samples)
        # A step of the proposal is rounded down to float32; the whole proposal is a float32 already.
        lowered = np.nextafter(radius.astype(np.float32), np.float32(0))
        exact = radius == self._radius
        rounded = np.where(exact, self._radius, np.where(radius > 0, lowered, 0)).astype(np.float32)
        return Verified(self._label, rounded, self._radius, self._samples.copy())
