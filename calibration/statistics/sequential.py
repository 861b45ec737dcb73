"""Tests and bounds on class counts that stay valid at any stopping time; numpy only, so that a robot can run them.

The verified tier asks one question per input: does the smoothed classifier give this label with a probability above
Phi(radius / sigma)? A fixed number of samples must be chosen for the hardest input; a test that may stop whenever the
evidence suffices needs hundreds where Cohen's CERTIFY takes 100,000.

Sources: betting e-processes: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting";
Ville 1939; mixtures: Robbins 1970, "Statistical methods related to the law of the iterated logarithm".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Tuple, Union

import numpy as np

from rrise.calibration.errors import CalibrationError

Numbers = Union[int, float, np.ndarray]

# Bets on alternatives at these multiples of the margin above the null, with these shares of the stake: most of it on
# the margin that proposals are made with, some on proposals that were more and less careful than planned.
_BETS = ((0.5, 0.1), (1.0, 0.7), (2.0, 0.1), (4.0, 0.1))
_LOG_SHARES = np.log([share for _, share in _BETS])
_BISECTIONS = 60

_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])


@dataclass(frozen=True)
class Bets:
    """per_hit, per_miss: float64 [bets, ...], logarithms of what a hit and a miss multiply each share of the stake by."""

    per_hit: np.ndarray
    per_miss: np.ndarray

    def log_wealth(self, won: Numbers, lost: Numbers) -> np.ndarray:
        """Natural logarithm of the wealth, float64 [...], after so many hits and misses."""
        won, lost = np.asarray(won, np.float64), np.asarray(lost, np.float64)
        # A miss costs everything where the alternative rules it out in float64; no miss costs nothing.
        with np.errstate(invalid="ignore"):
            loss = np.where(lost > 0, lost * self.per_miss, 0.0)
            exponents = won * self.per_hit + np.where(np.isnan(loss), -np.inf, loss)
        shares = _LOG_SHARES.reshape(-1, *[1] * (exponents.ndim - 1))
        wealth: np.ndarray = np.logaddexp.reduce(exponents + shares, axis=0)
        return wealth


@dataclass(frozen=True)
class SequentialTest:
    """One-sided test of "p_label <= Phi(radius / sigma)" from fresh noisy evaluations, by betting.

    A unit stake is split over alternatives q_j > p0 = Phi(radius / sigma); each share grows by q_j / p0 for a hit and
    by (1 - q_j) / (1 - p0) for a miss. For every p <= p0 the wealth is a non-negative supermartingale that starts at 1,
    so it ever reaches 1 / alpha with probability at most alpha (Ville).

    **Guarantee**: for this input, whenever one looks and for whatever reason one stops, `confirms` is true while the
    true radius of the label is at most `radius` with probability at most alpha. label and radius must be chosen
    without these samples.

    Args:
        sigma: noise standard deviation, [0, 1] pixel units.
        alpha: error level per input.
        margin: how far below the expected true radius proposals are made, in units of sigma; it steers the bets and
            hence the number of samples, never the guarantee.
    """

    sigma: float
    alpha: float
    margin: float = 0.3

    def __post_init__(self) -> None:
        for name, value in (("sigma", self.sigma), ("margin", self.margin)):
            if not (math.isfinite(value) and value > 0):
                raise CalibrationError(f"sequential test: got {name} {value}, expected a number above 0")
        if not 0 < self.alpha < 1:
            raise CalibrationError(f"sequential test: got alpha {self.alpha}, expected a level in (0, 1)")

    def log_wealth(self, radius: np.ndarray, hits: Numbers, samples: Numbers) -> np.ndarray:
        """Natural logarithm of the wealth, float64, elementwise.

        Args:
            radius: proposed radius >= 0, [0, 1] pixel units.
            hits: evaluations that gave the label. samples: all evaluations.
        """
        radius, won, lost = _checked(radius, hits, samples)
        return self.bets(radius).log_wealth(won, lost)

    def bets(self, radius: np.ndarray) -> "Bets":
        """What hits and misses are worth for these radii >= 0: for asking often about the same ones."""
        radius = np.asarray(radius, dtype=np.float64)
        # Float64 errors are put on the side of the null: p0 a little larger than it is.
        null = _upper_tail(radius / self.sigma) * (1.0 - 1e-12)
        per_hit, per_miss = [], []
        for multiple, _ in _BETS:
            alternative = _upper_tail(radius / self.sigma + multiple * self.margin)
            with np.errstate(divide="ignore", invalid="ignore"):
                per_hit.append(np.log1p(-alternative) - np.log1p(-null))
                per_miss.append(np.log(alternative) - np.log(null))
        return Bets(np.stack(per_hit), np.stack(per_miss))

    def confirms(self, radius: np.ndarray, hits: Numbers, samples: Numbers) -> np.ndarray:
        """Whether the counts confirm the radius, bool, elementwise."""
        return np.asarray(self.log_wealth(radius, hits, samples) >= -math.log(self.alpha))

    def largest_confirmed(
        self, proposal: np.ndarray, hits: np.ndarray, samples: np.ndarray, steps: int = 8
    ) -> np.ndarray:
        """The largest of the radii proposal * k / steps that is confirmed together with all smaller ones; else 0.

        **Guarantee**: at level alpha for all steps together, without splitting it: the steps are fixed by the
        proposal, and a radius above the true one is returned only if the smallest step that is not below the true one
        was confirmed, which is one test.
        """
        proposal = np.asarray(proposal, dtype=np.float64)
        confirmed = np.zeros_like(proposal)
        going_on = np.ones(proposal.shape, dtype=bool)
        # The radius 0 is a step too: a label that does not have half of the probability certifies nothing.
        for step in range(steps + 1):
            radius = proposal * step / steps
            going_on &= self.confirms(radius, hits, samples)
            confirmed = np.where(going_on, radius, confirmed)
        return confirmed


def lower_confidence_sequence(hits: Numbers, samples: Numbers, alpha: float) -> np.ndarray:
    """Lower bound on a success probability that holds at all sample sizes at once, float64, elementwise.

    The wealth of a bettor who spreads the stake over all probabilities by Beta(1/2, 1/2) is a martingale at the true
    p; the bound is the smallest p at which it has not reached 1 / alpha.

    **Guarantee**: P(the bound exceeds p at any time) <= alpha. So N may be chosen after looking at the counts
    (condition (c) of the calibration), and references may stop at different N.
    """
    if not 0 < alpha < 1:
        raise CalibrationError(f"confidence sequence: got alpha {alpha}, expected a level in (0, 1)")
    _, won, lost = _checked(0.0, hits, samples)
    total = won + lost
    evidence = _lgamma(won + 0.5) + _lgamma(lost + 0.5) - _lgamma(total + 1.0) - math.log(math.pi)
    low, high = np.zeros_like(total), won / np.maximum(total, 1.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = np.where(won > 0, won * np.log(middle), 0.0) + lost * np.log1p(-middle)
        rejected = evidence - likelihood >= -math.log(alpha)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    # `low` was rejected, and the true p is not (unless the alpha case came true): low < p.
    return np.asarray(low)


def exceeds(hits: int, samples: int, bound: float, alpha: float) -> bool:
    """Whether `lower_confidence_sequence` lies above `bound` after these counts: one evaluation instead of a bisection.

    **Guarantee**: while the true probability is at most `bound`, this is ever true with probability at most alpha,
    whenever one looks and for whatever reason one stops.
    """
    if not (0 < alpha < 1 and 0 <= hits <= samples):
        raise CalibrationError(
            f"confidence sequence: got alpha {alpha} and {hits} hits of {samples}, expected a level in (0, 1) and counts"
        )
    if samples == 0 or hits <= bound * samples:
        return False
    lost = samples - hits
    evidence = (
        math.lgamma(hits + 0.5) + math.lgamma(lost + 0.5) - math.lgamma(samples + 1.0) - math.log(math.pi)
    )
    if bound <= 0:
        return True
    return evidence - hits * math.log(bound) - lost * math.log1p(-bound) >= -math.log(alpha)


def _upper_tail(z: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * _erfc(np.asarray(z, dtype=np.float64) / math.sqrt(2.0)))


def _checked(radius: Numbers, hits: Numbers, samples: Numbers) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """radius, hits and misses as float64 arrays of one shape."""
    size, won, total = np.broadcast_arrays(
        np.asarray(radius, np.float64), np.asarray(hits, np.float64), np.asarray(samples, np.float64)
    )
    if (won < 0).any() or (won > total).any():
        raise CalibrationError(
            "sequential test: got hits outside 0..samples; pass counts of one class and all samples"
        )
    if not (size >= 0).all():
        raise CalibrationError("sequential test: got a radius that is negative or NaN, expected radii >= 0")
    return size, won, total - won
