"""Clopper-Pearson and reference radii against statsmodels and mpmath."""

from typing import Any

import numpy as np
import pytest
from mpmath import mp
from statsmodels.stats.proportion import proportion_confint

from rrise.calibration import CalibrationError
from rrise.calibration.statistics.bounds import (
    certified_radius,
    clopper_pearson_lower,
    clopper_pearson_upper,
    lower_radius,
    reference_radius,
    round_down,
    unproved,
)

GRID = [
    (k, n)
    for n in (1, 2, 10, 100, 1000, 100_000)
    for k in sorted({0, 1, 2, n // 2, n - 2, n - 1, n})
    if 0 <= k <= n
]


@pytest.mark.parametrize("beta", [0.1, 0.001, 1e-9])
@pytest.mark.parametrize(("hits", "trials"), GRID)
def test_bounds_agree_with_statsmodels(hits: int, trials: int, beta: float) -> None:
    low, high = proportion_confint(hits, trials, alpha=2 * beta, method="beta")
    assert clopper_pearson_lower(hits, trials, beta) == pytest.approx(low, rel=1e-12, abs=1e-300)
    assert clopper_pearson_upper(hits, trials, beta) == pytest.approx(high, rel=1e-12, abs=1e-300)


def _exact_lower(hits: int, trials: int, beta: str) -> "mp.mpf":
    """The p with P(Binomial(trials, p) >= hits) = beta, by bisection at sixty digits."""
    mp.dps = 60
    low, high = mp.mpf(0), mp.mpf(1)
    start = mp.mpf(float(clopper_pearson_lower(hits, trials, float(beta))))  # only narrows the first bracket
    narrow = start * (1 - mp.mpf(10) ** -9), min(start * (1 + mp.mpf(10) ** -9), mp.mpf(1))
    for end in narrow:
        low, high = (end, high) if _tail(hits, trials, end) < mp.mpf(beta) else (low, end)
    for _ in range(90):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(hits, trials, middle) < mp.mpf(beta) else (low, middle)
    return (low + high) / 2


def _tail(hits: int, trials: int, p: "mp.mpf") -> "mp.mpf":
    """P(Binomial(trials, p) >= hits), as a sum over the shorter side."""
    if hits <= trials - hits:
        return 1 - mp.fsum(mp.binomial(trials, j) * p**j * (1 - p) ** (trials - j) for j in range(hits))
    return mp.fsum(mp.binomial(trials, j) * p**j * (1 - p) ** (trials - j) for j in range(hits, trials + 1))


@pytest.mark.parametrize("beta", ["0.1", "0.001"])
@pytest.mark.parametrize(
    ("hits", "trials"),
    [(1, 1), (1, 100), (50, 100), (99, 100), (100, 100), (990, 1000), (9990, 10_000), (2, 100_000)],
)
def test_lower_bound_solves_its_equation_to_1e_12(hits: int, trials: int, beta: str) -> None:
    bound = mp.mpf(float(clopper_pearson_lower(hits, trials, float(beta))))
    root = _exact_lower(hits, trials, beta)
    assert abs(bound - root) / root < 1e-12


@pytest.mark.parametrize("beta", ["0.1", "0.001"])
@pytest.mark.parametrize(
    ("hits", "trials"),
    [
        (60, 100),
        (99, 100),
        (100, 100),
        (999, 1000),
        (1000, 1000),
        (9990, 10_000),
        (99_999, 100_000),
        (100_000, 100_000),
    ],
)
def test_reference_radius_is_below_the_exact_one_by_at_most_a_float32_step(
    hits: int, trials: int, beta: str
) -> None:
    p = _exact_lower(hits, trials, beta)
    signed = mp.mpf("0.25") * mp.sqrt(2) * mp.erfinv(2 * p - 1)
    exact = max(signed, mp.mpf(0))
    radius = reference_radius(np.array([[hits]]), np.array([trials]), 0.25, float(beta))[0, 0]
    assert radius.dtype == np.float32
    assert mp.mpf(float(radius)) <= exact
    assert exact - mp.mpf(float(radius)) <= mp.mpf(float(np.spacing(radius))) + 1e-10
    assert abs(mp.mpf(float(lower_radius(hits, trials, 0.25, float(beta)))) - signed) < 1e-12


def test_reference_radius_is_zero_below_one_half_and_never_negative() -> None:
    counts = np.array([[0, 100], [50, 50], [55, 45]], np.uint32)
    radius = reference_radius(counts, np.array([100, 100, 100]), 0.5, 0.1)
    assert (radius[:, 0] == 0).all()
    assert radius[0, 1] > 0 and (radius[1:, 1] == 0).all()


def test_bound_misses_with_probability_beta_at_most() -> None:
    """Exactly, by summing the binomial law: coverage at every p is at least 1 - beta, and close to it somewhere."""
    from scipy.stats import binom

    counts = np.arange(51)
    low = clopper_pearson_lower(counts, 50, 0.1)
    miss = [binom.pmf(counts[low > p], 50, p).sum() for p in np.linspace(0.001, 0.999, 999)]
    assert max(miss) <= 0.1 + 1e-12
    assert max(miss) > 0.095


@pytest.mark.parametrize("num_samples", [1, 10, 500, 20_000])
@pytest.mark.parametrize("beta", [0.3, 0.1, 0.001])
def test_stored_radii_are_proved_and_slightly_larger_ones_are_not(num_samples: int, beta: float) -> None:
    counts = np.unique(np.linspace(0, num_samples, 60).astype(int))
    trials = np.full(len(counts), num_samples)
    radius = reference_radius(counts[:, None], trials, 0.25, beta)[:, 0]
    assert not unproved(counts, trials, radius, 0.25, beta).any()
    assert not unproved(counts, trials, np.zeros_like(radius), 0.25, beta).any()
    larger = radius + np.float32(1e-5)
    assert unproved(counts, trials, larger, 0.25, beta).all()
    assert unproved(counts, trials, np.full_like(radius, 3.0), 0.25, beta).all()


def test_round_down_is_the_largest_float32_below() -> None:
    values = np.random.default_rng(0).uniform(-2, 2, 10_000)
    rounded = round_down(values)
    assert rounded.dtype == np.float32
    assert (rounded.astype(np.float64) <= values).all()
    assert (np.nextafter(rounded, np.float32(np.inf)).astype(np.float64) > values).all()


def test_certified_radius_is_cohens() -> None:
    assert certified_radius(np.array([0.5, 0.99]), 0.5) == pytest.approx(
        [0.0, 0.5 * 2.3263478740408408], abs=1e-15
    )


@pytest.mark.parametrize(
    ("counts", "trials"),
    [(-1, 10), (11, 10), (np.nan, 10), (np.array([1.0, np.nan]), 10), (0, 0), (1, np.nan)],
)
def test_impossible_counts_are_refused(counts: Any, trials: Any) -> None:
    with pytest.raises(CalibrationError, match="counts: expected"):
        clopper_pearson_lower(counts, trials, 0.1)
    with pytest.raises(CalibrationError, match="counts: expected"):
        clopper_pearson_upper(counts, trials, 0.1)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_beta_is_refused(beta: float) -> None:
    with pytest.raises(CalibrationError, match="beta: got"):
        clopper_pearson_lower(5, 10, beta)
