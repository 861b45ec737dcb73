"""Worlds with known class probabilities in which the promises are attained, for simulations at full speed.

Two kinds of frames. A *bad* frame has true radius R* and a raw radius just above it, so that it receives a wrong
certificate exactly when the offset falls below a known value D; a *good* frame never does. p is chosen such that the
Clopper-Pearson bound misses with probability beta up to 1e-4, which makes the factor 1 / (1 - beta) sharp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, norm

from rrise.calibration import Guarantee
from rrise.calibration.promise.offsets import smallest_offsets
from rrise.calibration.statistics.bounds import clopper_pearson_lower, reference_radius

SIGMA = 0.25


@dataclass(frozen=True)
class World:
    """A share of bad frames among frames with `num_samples` draws each."""

    share: float
    num_samples: int
    p: float
    raw: np.float32
    table: np.ndarray  # score of a bad frame for each count, float32 [num_samples + 1]
    good: np.float32  # score of a good frame

    @classmethod
    def make(cls, share: float, num_samples: int, beta: float) -> "World":
        hits = round(0.85 * num_samples)
        p = float(clopper_pearson_lower(hits, num_samples, beta)) * (1 - 1e-6)
        counts = np.arange(num_samples + 1)
        reference = reference_radius(counts[:, None], np.full(num_samples + 1, num_samples), SIGMA, beta)[
            :, 0
        ]
        raw = np.float32(SIGMA * norm.ppf(p) + 1e-4)
        table = smallest_offsets(np.full(num_samples + 1, raw), reference)
        return cls(share, num_samples, p, raw, table, np.float32(table.min() - 0.5))

    @property
    def miss(self) -> float:
        """Probability that the reference of a bad frame exceeds its true radius, exactly."""
        reference = self.raw.astype(np.float64) - self.table
        return float(binom.pmf(np.flatnonzero(reference > self.true_radius), self.num_samples, self.p).sum())

    @property
    def true_radius(self) -> float:
        return float(SIGMA * norm.ppf(self.p))

    def draw(self, rng: np.random.Generator, trials: int, num_frames: int) -> np.ndarray:
        """Scores of `trials` calibration sets, float32 [trials, num_frames]."""
        bad = rng.random((trials, num_frames)) < self.share
        counts = rng.binomial(self.num_samples, self.p, (trials, num_frames))
        return np.where(bad, self.table[counts], self.good)

    def wrong_share(self, offset: np.ndarray) -> np.ndarray:
        """Share of all frames that receive a wrong certificate at each offset (infinity: none)."""
        radius = self.raw - np.asarray(offset, np.float32)
        return np.where(radius.astype(np.float64) > self.true_radius, self.share, 0.0)


def ranked(scores: np.ndarray, guarantee: Guarantee) -> np.ndarray:
    """Offset of each row of scores, by the guarantee's rank; infinity where there is none."""
    rank = guarantee.rank(scores.shape[1])
    if rank is None:
        return np.full(len(scores), np.inf, np.float32)
    return np.partition(scores, rank - 1, axis=1)[:, rank - 1]


def at_most(level: float, trials: int, alarm: float = 1e-6) -> float:
    """Largest share of `trials` that a true probability of `level` exceeds with probability at most `alarm`."""
    return float(binom.ppf(1 - alarm, trials, level)) / trials
