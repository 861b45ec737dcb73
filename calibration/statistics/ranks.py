"""Which order statistic of the calibration scores becomes the offset: exact ranks, integers only.

Sources: Vovk, Gammerman and Shafer 2005 (marginal); Vovk 2012, "Conditional validity of inductive
conformal predictors", proposition 2a (training-conditional, here called PAC).
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor, log, log1p
from typing import Optional

from rrise.calibration.errors import CalibrationError


def marginal_rank(num_frames: int, alpha: Fraction) -> Optional[int]:
    """Rank k = ceil((n + 1)(1 - alpha)), or None when k > n and no finite offset exists.

    **Guarantee**: P(S_new <= k-th smallest of n exchangeable scores) >= 1 - alpha, over both draws.

    >>> marginal_rank(19, Fraction(1, 20)), marginal_rank(18, Fraction(1, 20))
    (19, None)
    """
    _check_count(num_frames)
    product = (num_frames + 1) * (1 - alpha)
    rank = -(-product.numerator // product.denominator)
    return rank if rank <= num_frames else None


def marginal_frames_needed(alpha: Fraction) -> int:
    """Smallest n for which `marginal_rank` is not None: ceil(1 / alpha) - 1."""
    return -(-alpha.denominator // alpha.numerator) - 1


def pac_rank(num_frames: int, alpha: Fraction, delta: Fraction) -> Optional[int]:
    """Smallest k with BinomCDF(k - 1; n, 1 - alpha) >= 1 - delta, or None when there is none.

    **Guarantee**: with probability >= 1 - delta over n independent calibration scores, a new score
    exceeds the k-th smallest with probability <= alpha.

    >>> pac_rank(299, Fraction(1, 100), Fraction(1, 20)), pac_rank(298, Fraction(1, 100), Fraction(1, 20))
    (299, None)
    """
    _check_count(num_frames)
    allowed = max_exceedances(num_frames, alpha, delta)
    return None if allowed is None else num_frames - allowed


def max_exceedances(num_frames: int, alpha: Fraction, delta: Fraction) -> Optional[int]:
    """Largest j with BinomCDF(j; n, alpha) <= delta, or None when even j = 0 fails.

    This is n - k of `pac_rank`: how many calibration scores may lie above the offset.
    The sum is kept over the common denominator d^n of alpha = a/d, so no rounding occurs.
    """
    hit, denominator = alpha.numerator, alpha.denominator
    miss = denominator - hit
    budget = delta * denominator**num_frames
    allowed, total = -1, 0
    # Exact integers: term(j) = C(n, j) a^j (d - a)^(n - j), updated from its neighbour by exact division.
    term = miss**num_frames
    while total + term <= budget and allowed < num_frames:
        total += term
        allowed += 1
        term = term * (num_frames - allowed) * hit // ((allowed + 1) * miss)
    return None if allowed < 0 else allowed


def pac_frames_needed(alpha: Fraction, delta: Fraction) -> int:
    """Smallest n with (1 - alpha)^n <= delta, the least for which `pac_rank` is not None.

    Exact up to 100,000 frames; beyond that it may be one or two frames too many, never too few.

    >>> pac_frames_needed(Fraction(1, 1000), Fraction(1, 20))
    2995
    """
    estimate = log(float(delta)) / log1p(-float(alpha))
    if estimate > 100_000:
        # Exact powers of this size take seconds; the margin covers the rounding of the logarithms.
        return ceil(estimate * (1 + 1e-12))
    num_frames = max(floor(estimate * (1 - 1e-12)), 1)
    while (1 - alpha) ** num_frames > delta:
        num_frames += 1
    return num_frames


def _check_count(num_frames: int) -> None:
    if num_frames < 0:
        raise CalibrationError(f"number of calibration frames: got {num_frames}, expected 0 or more")
