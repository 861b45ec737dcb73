"""Exact binomial tails without scipy: the test of coverage that a robot runs on new references."""

from __future__ import annotations

from fractions import Fraction
from math import exp, fsum, lgamma, log, log1p


def upper_tail(successes: int, trials: int, probability: Fraction) -> float:
    """P(Binomial(trials, probability) >= successes), computed in integers and rounded once.

    Raises:
        ValueError: impossible counts, or a probability outside [0, 1].
    """
    if not (0 <= successes <= trials and 0 <= probability <= 1):
        raise ValueError(
            f"got {successes} of {trials} at {probability}, expected 0 <= successes <= trials, 0 <= p <= 1"
        )
    hit, denominator = probability.numerator, probability.denominator
    miss = denominator - hit
    # Each term comes from its neighbour by exact division over the common denominator d^n.
    if miss == 0:
        return 1.0
    total, term = 0, miss**trials
    for count in range(successes):
        total += term
        term = term * (trials - count) * hit // ((count + 1) * miss)
    return float(1 - Fraction(total, denominator**trials))


def upper_limit(successes: int, trials: int, level: float) -> float:
    """Largest probability that `successes` of `trials` do not refute at `level`: the one-sided Clopper-Pearson limit."""
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if _lower_tail(successes, trials, middle) > level:
            low = middle
        else:
            high = middle
    return high


def _lower_tail(successes: int, trials: int, probability: float) -> float:
    """P(Binomial(trials, probability) <= successes) in floating point, for 0 < probability < 1."""
    whole = lgamma(trials + 1)
    return fsum(
        exp(
            whole
            - lgamma(count + 1)
            - lgamma(trials - count + 1)
            + count * log(probability)
            + (trials - count) * log1p(-probability)
        )
        for count in range(successes + 1)
    )
