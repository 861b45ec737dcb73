"""The probit of the top class against scipy in float64 and mpmath, and its behaviour on broken logits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.special import expit, log_softmax, ndtri_exp

from rrise.calibration import CalibrationError, probit_from_logits
from rrise.calibration.statistics.probit import DENOMINATOR, LOGIT_LIMIT, NUMERATOR, probit_from_margin


def test_rational_fit_against_scipy_over_the_whole_range() -> None:
    margin = np.linspace(-60, 60, 200_000, dtype=np.float32)  # an even number: 0 is not among them
    size = np.abs(margin.astype(np.float64))
    exact = -np.sign(margin) * ndtri_exp(
        -np.logaddexp(0.0, size)
    )  # Phi^-1 of the smaller tail, in logarithms
    assert (
        np.abs(probit_from_margin(margin) / exact - 1).max() < 1.5e-6
    )  # 7e-7 of the fit, then float32 arithmetic
    small = np.logspace(-30, -5, 1000, dtype=np.float32)
    assert np.abs(probit_from_margin(small) / small / np.sqrt(np.pi / 8) - 1).max() < 1.5e-6
    assert probit_from_margin(np.zeros(1, np.float32))[0] == 0


@pytest.mark.parametrize("margin", ["1e-3", "0.5", "3", "12", "37", "60"])
def test_rational_fit_against_mpmath(margin: str) -> None:
    mp.dps = 60
    t = mp.mpf(margin)
    tail = 1 / (1 + mp.exp(t))
    # Phi(-x) = tail, solved with sixty digits; no float64 function is involved.
    start = mp.sqrt(-2 * mp.log(tail)) if tail < 0.1 else mp.mpf("0.5")
    exact = mp.findroot(lambda x: mp.log(mp.erfc(x / mp.sqrt(2)) / 2) - mp.log(tail), start)
    numerator = sum(mp.mpf(c) * t**i for i, c in enumerate(NUMERATOR))
    denominator = sum(mp.mpf(c) * t**i for i, c in enumerate(DENOMINATOR))
    assert abs(t * numerator / denominator / exact - 1) < 7e-7


def test_probit_of_softmax_where_softmax_is_exact_enough() -> None:
    from scipy.stats import norm

    logits = np.random.default_rng(0).normal(0, 2, (1000, 10)).astype(np.float32)
    top = np.exp(log_softmax(logits.astype(np.float64), axis=1)).max(axis=1)
    found = probit_from_logits(logits)
    assert found.probit == pytest.approx(norm.ppf(top), abs=3e-6)
    assert (found.label == logits.argmax(axis=1)).all()


def test_the_tail_survives_where_float32_probabilities_are_one() -> None:
    found = probit_from_logits(np.array([[30.0, 0.0], [50.0, 0.0]], np.float32))
    assert expit(np.float32(30)) == 1.0
    assert found.probit == pytest.approx(-ndtri_exp(-np.array([30.0, 50.0])), rel=2e-6)


@settings(max_examples=300)
@given(
    st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
    st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
)
def test_monotone_odd_and_finite(a: float, b: float) -> None:
    low, high = sorted((a, b))
    values = probit_from_margin(np.array([low, high, -low], np.float32))
    assert np.isfinite(values).all()
    assert values[0] <= values[1] * (1 + np.sign(values[1]) * 2e-6) + 1e-38
    assert values[2] == -values[0]
    assert abs(values).max() <= probit_from_margin(np.array([LOGIT_LIMIT], np.float32))[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -2e30])
def test_broken_logits_give_nan(bad: float) -> None:
    found = probit_from_logits(np.array([[bad, 0.0, 1.0], [3.0, 0.0, 1.0]], np.float32))
    assert np.isnan(found.probit[0]) and np.isfinite(found.probit[1])


def test_label_is_the_first_of_equal_logits() -> None:
    found = probit_from_logits(np.array([[1.0, 1.0, 0.0]], np.float32))
    assert found.label[0] == 0 and found.probit[0] < 0  # below one half: two classes share the mass


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 3, 4)])
def test_other_shapes_are_refused(shape: "tuple[int, ...]") -> None:
    with pytest.raises(CalibrationError, match="expected \\[n, K\\]"):
        probit_from_logits(np.zeros(shape, np.float32))
