"""Ranks against integers, scipy, MAPIE and TorchCP."""

import importlib.util
import math
import warnings
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from rrise.calibration import CalibrationError
from rrise.calibration.statistics.ranks import (
    marginal_frames_needed,
    marginal_rank,
    max_exceedances,
    pac_frames_needed,
    pac_rank,
)

SIZES = [1, 2, 5, 9, 10, 18, 19, 20, 21, 50, 98, 99, 100, 101, 199, 200, 499, 500, 999, 1000, 4999, 5000]
LEVELS = ["1/100", "1/50", "9/200", "1/20", "9/100", "1/10", "1/7", "1/3", "1/2", "9/10"]


def binomial_cdf(successes: int, trials: int, probability: Fraction) -> Fraction:
    """P(Binomial(trials, probability) <= successes), exactly."""
    return sum(
        (comb(trials, j) * probability**j * (1 - probability) ** (trials - j) for j in range(successes + 1)),
        Fraction(0),
    )


def torchcp_rank(num_frames: int, alpha: Fraction) -> "int | None":
    """TorchCP's calculate_conformal_value: level = ceil((N + 1)(1 - alpha)) / N, then the ceil(N level)-th smallest.

    Evaluated with rationals, since with floats its ceil is off by one at the hard cases (see the test below).
    """
    level = Fraction(math.ceil((num_frames + 1) * (1 - alpha)), num_frames)
    return None if level > 1 else math.ceil(num_frames * level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("num_frames", SIZES)
def test_marginal_rank_is_torchcps(num_frames: int, level: str) -> None:
    assert marginal_rank(num_frames, Fraction(level)) == torchcp_rank(num_frames, Fraction(level))


# What calculate_conformal_value of TorchCP 1.2.1 answers for the scores 1, 2, ..., n at each n of SIZES; - is infinity.
TORCHCP = {
    "0.01": "- - - - - - - - - - - 99 100 101 198 199 495 496 990 991 4950 4951",
    "0.045": "- - - - - - - - - 49 95 96 97 98 191 192 478 479 955 956 4775 4776",
    "0.05": "- - - - - - 19 20 21 49 95 95 96 97 190 191 475 476 950 951 4750 4751",
    "0.09": "- - - - - 18 19 20 21 47 91 91 92 93 182 183 455 456 910 911 4550 4551",
    "0.1": "- - - 9 10 18 18 19 20 46 90 90 91 92 180 181 450 451 900 901 4500 4501",
    "0.25": "- - 5 8 9 15 15 16 17 39 75 75 76 77 150 151 375 376 750 751 3750 3751",
}


@pytest.mark.parametrize("level", TORCHCP)
def test_marginal_rank_agrees_with_answers_of_torchcp(level: str) -> None:
    ranks = [marginal_rank(num_frames, Fraction(level)) for num_frames in SIZES]
    assert ["-" if rank is None else str(rank) for rank in ranks] == TORCHCP[level].split()


def test_marginal_rank_agrees_with_torchcp_itself() -> None:
    """Its one function is loaded by itself, since the package wants graph and language-model libraries."""
    found = importlib.util.find_spec("torchcp")
    if found is None or not found.submodule_search_locations:
        pytest.skip("TorchCP is not installed: pip install --no-deps torchcp")
    torch = pytest.importorskip("torch", reason="TorchCP needs torch: pip install torch")
    path = Path(found.submodule_search_locations[0]) / "utils" / "common.py"
    spec = importlib.util.spec_from_file_location("torchcp_common", path)
    assert spec is not None and spec.loader is not None
    common = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(common)
    for level in TORCHCP:
        for num_frames in SIZES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = float(
                    common.calculate_conformal_value(torch.arange(1.0, num_frames + 1), float(level))
                )
            assert theirs == (marginal_rank(num_frames, Fraction(level)) or math.inf)


@pytest.mark.parametrize("level", [0.01, 0.02, 0.045, 0.05, 0.09, 0.1, 0.25, 0.5])
def test_marginal_rank_agrees_with_mapie(level: float) -> None:
    mapie = pytest.importorskip("mapie.utils", reason="MAPIE is not installed: pip install mapie")
    quantile = getattr(mapie, "_compute_regression_quantile", None)
    if quantile is None:
        pytest.skip("this MAPIE has no _compute_regression_quantile; 1.6 has")
    for num_frames in SIZES:
        rank = marginal_rank(num_frames, Fraction(str(level)))
        if rank is None or (num_frames + 1) * Fraction(str(level)) % 1 == 0:
            continue  # at whole numbers MAPIE's float level may be off by one; the next test holds the exact value
        scores = np.arange(1.0, num_frames + 1)
        theirs = quantile(scores[None], np.array([1 - level]), axis=1)
        assert np.ravel(theirs)[0] == rank


def test_hard_cases_where_floats_go_wrong() -> None:
    # (n + 1)(1 - alpha) is whole: 400 * .95 = 380, 200 * .955 = 191, 1000 * .91 = 910.
    assert marginal_rank(399, Fraction("0.05")) == 380
    assert marginal_rank(199, Fraction("0.045")) == 191
    assert marginal_rank(999, Fraction("0.09")) == 910
    # Here double precision rounds the product across the whole number: 1000 * .941 = 941, 300 * .82 = 246.
    for num_frames, level, rank in ((999, "0.059", 941), (299, "0.18", 246), (124, "0.176", 103)):
        assert math.ceil((num_frames + 1) * (1 - float(level))) == rank + 1
        assert marginal_rank(num_frames, Fraction(level)) == rank


@given(st.integers(0, 3000), st.fractions(Fraction(1, 1000), Fraction(999, 1000)))
def test_marginal_rank_is_the_least_that_covers(num_frames: int, alpha: Fraction) -> None:
    rank = marginal_rank(num_frames, alpha)
    if rank is None:
        assert Fraction(num_frames, num_frames + 1) < 1 - alpha
        assert num_frames < marginal_frames_needed(alpha)
    else:
        assert Fraction(rank, num_frames + 1) >= 1 - alpha > Fraction(rank - 1, num_frames + 1)
        assert num_frames >= marginal_frames_needed(alpha)


@settings(deadline=None)
@given(
    st.integers(0, 40),
    st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=200),
    st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=100),
)
def test_pac_rank_is_the_least_by_the_exact_binomial(
    num_frames: int, alpha: Fraction, delta: Fraction
) -> None:
    rank = pac_rank(num_frames, alpha, delta)
    enough = [k for k in range(1, num_frames + 1) if binomial_cdf(k - 1, num_frames, 1 - alpha) >= 1 - delta]
    assert rank == (enough[0] if enough else None)
    assert (rank is not None) == (num_frames >= pac_frames_needed(alpha, delta))


@pytest.mark.parametrize("num_frames", [299, 500, 1000, 5000, 10_000])
@pytest.mark.parametrize("alpha", ["0.01", "0.045", "0.09", "0.25"])
def test_pac_rank_against_scipy(num_frames: int, alpha: str) -> None:
    rank = pac_rank(num_frames, Fraction(alpha), Fraction("0.05"))
    assert rank is not None
    cover = 1 - float(alpha)
    assert binom.cdf(rank - 1, num_frames, cover) >= 0.95 - 1e-9
    assert binom.cdf(rank - 2, num_frames, cover) < 0.95 + 1e-9


def test_pac_frames_of_the_documentation() -> None:
    assert pac_frames_needed(Fraction("0.01"), Fraction("0.05")) == 299
    assert pac_frames_needed(Fraction("0.001"), Fraction("0.05")) == 2995


def test_pac_frames_of_tiny_levels_are_enough_and_hardly_more() -> None:
    from mpmath import ceil, log, mp

    mp.dps = 50
    for text in ("1e-5", "1e-7", "1e-9"):
        exact = int(ceil(log(mp.mpf("0.05")) / log(1 - mp.mpf(text))))
        assert exact <= pac_frames_needed(Fraction(text), Fraction("0.05")) <= exact + 1 + exact * 1e-11


def test_too_few_frames_never_clamp() -> None:
    assert marginal_rank(0, Fraction("0.05")) is None
    assert pac_rank(0, Fraction("0.05"), Fraction("0.05")) is None
    assert pac_rank(64, Fraction("0.045"), Fraction("0.05")) is None
    assert pac_rank(66, Fraction("0.045"), Fraction("0.05")) == 66
    assert max_exceedances(66, Fraction("0.045"), Fraction("0.05")) == 0


def test_negative_count_is_refused() -> None:
    with pytest.raises(CalibrationError, match="got -1"):
        marginal_rank(-1, Fraction("0.1"))
