"""Exact binomial tails against scipy."""

from __future__ import annotations

from fractions import Fraction

import pytest
from scipy import stats

from rrise.edge_sdk.device.binomial import upper_limit, upper_tail


@pytest.mark.parametrize("trials", [1, 7, 200, 1500])
@pytest.mark.parametrize("probability", [Fraction(9, 200), Fraction(1, 3), Fraction(999, 1000)])
def test_upper_tail_is_scipys(trials, probability):
    for successes in sorted({0, 1, trials // 20, trials // 2, trials}):
        expected = stats.binom.sf(successes - 1, trials, float(probability))
        assert upper_tail(successes, trials, probability) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_ends_of_the_range():
    assert upper_tail(1, 5, Fraction(0)) == 0.0
    assert (
        upper_tail(0, 5, Fraction(0))
        == 1.0
        == upper_tail(5, 5, Fraction(1))
        == upper_tail(0, 0, Fraction(1, 2))
    )
    for wrong in ((-1, 5, Fraction(1, 2)), (6, 5, Fraction(1, 2)), (1, 5, Fraction(3, 2))):
        with pytest.raises(ValueError, match="expected"):
            upper_tail(*wrong)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (9, 10), (10, 10), (12, 4000)])
def test_upper_limit_is_clopper_pearson(successes, trials):
    expected = stats.beta.ppf(0.99, successes + 1, trials - successes) if successes < trials else 1.0
    assert upper_limit(successes, trials, 0.01) == pytest.approx(expected, rel=1e-8)
