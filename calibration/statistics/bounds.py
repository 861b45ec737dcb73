"""Clopper-Pearson bounds and the reference radius: what Monte Carlo counts prove about one frame."""

from __future__ import annotations

import math
from typing import Union

import numpy as np

from rrise.calibration.errors import CalibrationError

Counts = Union[int, np.ndarray]

ROUNDING_GUARD = 1e-11
"""Reference radii are lowered by this much of sigma and of themselves: more than the error of the special functions,
far less than a float32 step."""


def clopper_pearson_lower(counts: Counts, num_samples: Counts, beta: float) -> np.ndarray:
    """Lower confidence bound on a success probability, float64, elementwise.

    **Guarantee**: P(bound <= p) >= 1 - beta for every p, over the Monte Carlo draw. Source: Clopper and Pearson 1934.

    Raises:
        CalibrationError: negative counts, counts above num_samples, or beta outside (0, 1).
    """
    from scipy.special import betaincinv

    hits, trials = _checked(counts, num_samples, beta)
    some = hits > 0
    return np.where(some, betaincinv(np.where(some, hits, 1.0), trials - hits + 1.0, beta), 0.0)


def clopper_pearson_upper(counts: Counts, num_samples: Counts, beta: float) -> np.ndarray:
    """Upper confidence bound on a success probability, float64, elementwise; see `clopper_pearson_lower`."""
    from scipy.special import betainccinv

    hits, trials = _checked(counts, num_samples, beta)
    some = hits < trials
    return np.where(some, betainccinv(hits + 1.0, np.where(some, trials - hits, 1.0), beta), 1.0)


def certified_radius(probability: np.ndarray, sigma: float) -> np.ndarray:
    """sigma Phi^-1(p), signed, float64. Source: Cohen, Rosenfeld and Kolter 2019, theorem 1 with p_B = 1 - p_A."""
    from scipy.special import ndtri

    return np.asarray(sigma * ndtri(np.asarray(probability, np.float64)))


def reference_radius(
    counts: np.ndarray, num_samples: np.ndarray, sigma: float, beta: Union[float, np.ndarray]
) -> np.ndarray:
    """R_low = max(sigma Phi^-1(lower bound), 0) of every class, float32 rounded *down*.

    Args:
        counts: uint32 [n, K], how often each class won.
        num_samples: uint32 [n], draws per frame.
        sigma: noise standard deviation, [0, 1] pixel units.
        beta: miss probability of each bound; float64 [n] where frames differ in it.

    Returns:
        float32 [n, K].

    **Guarantee**: for each frame and class, P(R_low > max(true radius, 0)) <= beta.
    """
    level = beta if np.ndim(beta) == 0 else np.asarray(beta)[:, None]
    radius = lower_radius(counts, np.asarray(num_samples)[:, None], sigma, level)
    with np.errstate(invalid="ignore"):  # a count of 0 gives -inf - inf
        guarded = radius - ROUNDING_GUARD * (sigma + np.abs(radius))
    return round_down(np.where(guarded > 0, guarded, 0.0))


def lower_radius(
    counts: Counts, num_samples: Counts, sigma: float, beta: Union[float, np.ndarray]
) -> np.ndarray:
    """sigma Phi^-1(Clopper-Pearson lower bound), signed, float64, elementwise; -inf where the count is 0.

    It goes through the bound's complement: near p = 1 a float64 p resolves Phi^-1 to no more than ten digits.
    """
    from scipy.special import betainccinv, ndtri

    hits, trials = _checked(counts, num_samples, beta)
    some = hits > 0
    miss = np.where(some, betainccinv(trials - hits + 1.0, np.where(some, hits, 1.0), beta), 1.0)
    return np.asarray(-sigma * ndtri(miss))


def unproved(
    counts: np.ndarray,
    num_samples: np.ndarray,
    radius: np.ndarray,
    sigma: float,
    beta: Union[float, np.ndarray],
) -> np.ndarray:
    """Which radii are larger than the counts prove, bool [n]; numpy alone, to check stored ones where scipy is absent.

    A radius r > 0 is proved when so many hits have probability at most beta under p = Phi(r / sigma), which is how the
    Clopper-Pearson bound is defined. The tail is summed term by term.

    Args:
        counts, num_samples: int [n].
        radius: float32 [n], reference radii, >= 0.
        beta: at most 1/2; float64 [n] where it is not the same for every radius.
    """
    hits, trials = _checked(counts, num_samples, beta)
    share = np.array([0.5 * math.erfc(-float(value) / sigma / math.sqrt(2)) for value in radius])
    miss = np.array([0.5 * math.erfc(float(value) / sigma / math.sqrt(2)) for value in radius])
    first = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k, n in zip(hits, trials)]
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(trials > hits, (trials - hits) * np.log(miss), 0.0)
        term = np.exp(np.array(first) + hits * np.log(share) + lost)
        total, place = term.copy(), hits.copy()
        while (term > 1e-12 * total).any():
            term = term * np.maximum(trials - place, 0.0) / (place + 1.0) * (share / miss)
            term = np.where(place < trials, term, 0.0)
            total, place = total + term, place + 1.0
    # With no more hits than expected the tail is at least one half, and the sum above may have begun at an underflow.
    expected = hits <= trials * share
    return np.asarray((np.asarray(radius) > 0) & (expected | ~(total <= beta * (1 + 1e-6))))


def round_down(values: np.ndarray) -> np.ndarray:
    """Largest float32 not above each float64 value."""
    exact = np.asarray(values, np.float64)
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _checked(
    counts: Counts, num_samples: Counts, beta: Union[float, np.ndarray]
) -> "tuple[np.ndarray, np.ndarray]":
    hits, trials = np.broadcast_arrays(np.asarray(counts, np.float64), np.asarray(num_samples, np.float64))
    if not np.all((np.asarray(beta) > 0.0) & (np.asarray(beta) < 1.0)):
        raise CalibrationError(f"beta: got {beta}, expected a number strictly between 0 and 1")
    if hits.size and not (
        np.isfinite(hits).all() and (hits >= 0).all() and (hits <= trials).all() and (trials > 0).all()
    ):
        raise CalibrationError(
            "counts: expected 0 <= count <= num_samples and num_samples >= 1 everywhere, without NaN"
        )
    return hits, trials
