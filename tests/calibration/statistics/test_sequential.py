"""The sequential test and the confidence sequence: error rates by simulation, numbers against scipy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import clopper_pearson_lower
from rrise.calibration.statistics.sequential import (
    SequentialTest,
    lower_confidence_sequence,
)

COUNTS = Path(__file__).parents[4] / "shared" / "data" / "reference" / "cohen_resnet110_counts_sigma0.25.npz"


def ever_confirmed(p: float, z0: float, alpha: float, paths: int, horizon: int, seed: int) -> float:
    """Share of Bernoulli(p) paths on which the test of p <= Phi(z0) confirms at any sample size up to `horizon`."""
    rng = np.random.default_rng(seed)
    test = SequentialTest(sigma=1.0, alpha=alpha)
    hits = np.zeros(paths, dtype=np.int64)
    ever = np.zeros(paths, dtype=bool)
    for t in range(1, horizon + 1):
        hits += rng.random(paths) < p
        ever |= test.confirms(np.full(paths, z0), hits, t)
    return float(ever.mean())


@pytest.mark.parametrize("paths", [600, pytest.param(2000, marks=pytest.mark.long)])
@pytest.mark.parametrize("z0", [0.0, 0.8, 2.0])
def test_type_one_error_at_the_boundary(z0, paths):
    alpha = 0.05
    rate = ever_confirmed(stats.norm.cdf(z0), z0, alpha, paths, 1500, seed=1)
    # Looking after every sample. A valid test exceeds this bound with probability below 1e-4.
    assert rate <= stats.binom.ppf(1 - 1e-4, paths, alpha) / paths
    # And it is no test that never speaks.
    assert rate > 0.2 * alpha


def test_a_fixed_binomial_test_looked_at_all_the_time_would_fail_the_same_check():
    """The check above can fail: repeated exact tests at level alpha exceed it."""
    rng = np.random.default_rng(1)
    hits = (rng.random((2000, 1500)) < 0.5).cumsum(axis=1)
    looks = np.arange(10, 1501, 10)
    values = stats.binom.sf(hits[:, looks - 1] - 1, looks, 0.5)
    assert (values <= 0.05).any(axis=1).mean() > stats.binom.ppf(1 - 1e-4, 2000, 0.05) / 2000


@given(z0=st.floats(0, 4), hits=st.integers(0, 500), misses=st.integers(0, 100), margin=st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_wealth_is_the_mixture_of_likelihood_ratios(z0, hits, misses, margin):
    got = SequentialTest(1.0, 0.01, margin).log_wealth(np.array(z0), hits, hits + misses)
    parts = []
    for multiple, share in ((0.5, 0.1), (1.0, 0.7), (2.0, 0.1), (4.0, 0.1)):
        z = z0 + multiple * margin
        ratio = hits * (stats.norm.logcdf(z) - stats.norm.logcdf(z0))
        parts.append(np.log(share) + ratio + misses * (stats.norm.logsf(z) - stats.norm.logsf(z0)))
    np.testing.assert_allclose(got, special.logsumexp(parts), rtol=1e-7, atol=1e-7)


@given(z0=st.floats(0, 6), p=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_one_bet_is_fair_at_the_boundary_and_unfair_below(z0, p):
    test = SequentialTest(1.0, 0.01)
    p = min(p, float(stats.norm.cdf(z0)))
    won, lost = np.exp(test.log_wealth(np.array([z0, z0]), np.array([1, 0]), np.array([1, 1])))
    assert p * won + (1 - p) * lost <= 1 + 1e-9


def test_extreme_radii_confirm_nothing_and_give_no_nan():
    test = SequentialTest(1.0, 0.001)
    wealth = test.log_wealth(np.array([9.0, 40.0, 1e6]), np.array([1000] * 3), np.array([1000] * 3))
    assert not np.isnan(wealth).any() and not test.confirms(np.array([9.0, 40.0, 1e6]), 1000, 1000).any()
    assert not test.confirms(np.array([0.0]), np.array([0]), np.array([0])).any()


def test_the_largest_confirmed_step():
    test = SequentialTest(0.25, 0.001)
    proposal = np.array([0.5, 0.5, 0.5, 0.5])
    confirmed = test.largest_confirmed(proposal, np.array([4999, 4700, 3300, 2000]), np.array([5000] * 4))
    assert confirmed[0] == 0.5
    assert 0 < confirmed[1] < 0.25 * stats.norm.ppf(0.94)
    assert 0 < confirmed[2] < 0.25 * stats.norm.ppf(0.66)
    assert confirmed[3] == 0


@pytest.mark.parametrize("paths", [400, pytest.param(1500, marks=pytest.mark.long)])
def test_steps_do_not_spend_alpha(paths):
    """The true radius lies anywhere between the steps; a step above it is confirmed at most alpha of the time."""
    rng, alpha = np.random.default_rng(3), 0.1
    test = SequentialTest(1.0, alpha)
    proposal = np.full(paths, 1.6)
    for true in (0.0, 0.5, 1.0):
        hits, worst = np.zeros(paths, dtype=np.int64), np.zeros(paths)
        for t in range(10, 1001, 10):
            hits += rng.binomial(10, stats.norm.cdf(true), paths)
            worst = np.maximum(worst, test.largest_confirmed(proposal, hits, np.full(paths, t)))
        assert (worst > true).mean() <= stats.binom.ppf(1 - 1e-4, paths, alpha) / paths


def test_confidence_sequence_covers_at_all_times():
    rng, alpha, paths = np.random.default_rng(5), 0.1, 1000
    for p in (0.5, 0.9, 0.99):
        hits, missed = np.zeros(paths, dtype=np.int64), np.zeros(paths, dtype=bool)
        for t in range(20, 3001, 20):
            hits += rng.binomial(20, p, paths)
            missed |= lower_confidence_sequence(hits, np.full(paths, t), alpha) > p
        assert missed.mean() <= stats.binom.ppf(1 - 1e-4, paths, alpha) / paths


def test_confidence_sequence_against_scipy():
    hits, samples, alpha = np.array([0, 5, 90, 999, 1000]), np.array([10, 10, 100, 1000, 1000]), 0.05
    got = lower_confidence_sequence(hits, samples, alpha)
    assert got[0] == 0
    for h, n, bound in zip(hits[1:], samples[1:], got[1:], strict=True):
        log_mixture = special.betaln(h + 0.5, n - h + 0.5) - special.betaln(0.5, 0.5)
        wealth = log_mixture - special.xlogy(h, bound) - special.xlog1py(n - h, -bound)
        np.testing.assert_allclose(wealth, np.log(1 / alpha), rtol=1e-6)
        assert bound < clopper_pearson_lower(h, n, alpha), "the price of looking at all times"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"sigma": 0.0}, "sigma 0.0"), ({"alpha": 1.0}, "alpha 1.0"), ({"margin": float("nan")}, "margin nan")],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(CalibrationError, match=message):
        SequentialTest(**{"sigma": 0.25, "alpha": 0.001, **arguments})
    with pytest.raises(CalibrationError, match=r"hits outside 0\.\.samples"):
        SequentialTest(0.25, 0.001).log_wealth(np.array([0.1]), np.array([5]), np.array([4]))
    for alpha in (0.0, 1.0, 1.5, float("nan")):
        with pytest.raises(CalibrationError, match="confidence sequence: got alpha"):
            lower_confidence_sequence(5, 10, alpha)
    with pytest.raises(CalibrationError, match="radius that is negative or NaN"):
        SequentialTest(0.25, 0.001).log_wealth(np.array([np.nan]), np.array([5]), np.array([5]))


@pytest.mark.skipif(not os.path.exists(COUNTS), reason="the third-party counts are not here")
def test_median_samples_on_third_party_counts():
    """A perfect proposal (CERTIFY at N = 100,000) minus 0.3 sigma, on Cohen's ResNet-110 at sigma 0.25."""
    with np.load(COUNTS) as archive:
        hits = archive["test_sigma0.25_N100000"].max(axis=1)
    z = stats.norm.ppf(clopper_pearson_lower(hits, np.full(len(hits), 100_000), 0.001))
    chosen = np.flatnonzero(z > 0.3)[:1500]
    p, proposal = hits[chosen] / 100_000, 0.25 * (z[chosen] - 0.3)
    test, rng = SequentialTest(0.25, 0.001), np.random.default_rng(0)
    won, used = np.zeros(len(p), dtype=np.int64), np.full(len(p), 10**9)
    for t in range(25, 3001, 25):
        won += rng.binomial(25, p)
        confirmed = test.confirms(proposal, won, t)
        used = np.where(confirmed & (used == 10**9), t, used)
    assert np.median(used) < 1200
    # The binomial test with the N that confirms this median frame with probability .9 needs more.
    middle = np.argsort(np.abs(z[chosen] - np.median(z[chosen])))[0]
    null = stats.norm.cdf(z[chosen][middle] - 0.3)
    fixed = next(
        n
        for n in range(100, 20_000, 50)
        if stats.binom.sf(stats.binom.isf(0.001, n, null), n, p[middle]) >= 0.9
    )
    assert np.median(used) < fixed < 100_000
