"""Levels are exact rationals, whatever way they are written."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rrise.calibration import CalibrationError, Guarantee, parse_level
from rrise.calibration.statistics.levels import level_text


@pytest.mark.parametrize(
    "value", ["0.045", "9/200", 0.045, np.float64(0.045), Fraction(9, 200), "4.5e-2", " 0.045 "]
)
def test_one_level_in_every_spelling(value: Any) -> None:
    assert parse_level(value, "error") == Fraction(9, 200)


def test_a_float_is_not_read_as_its_binary_expansion() -> None:
    assert Fraction(0.045) != parse_level(0.045, "error")


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "1",
        0,
        1,
        0.0,
        1.0,
        -0.1,
        1.5,
        "5 %",
        "",
        "nan",
        "inf",
        float("nan"),
        float("inf"),
        "1/0",
        None,
        True,
        [0.1],
    ],
)
def test_bad_levels_are_named_and_refused(value: Any) -> None:
    with pytest.raises(CalibrationError, match="beta: got"):
        parse_level(value, "beta")


def test_an_absurd_exponent_is_refused_and_not_computed() -> None:
    with pytest.raises(CalibrationError, match="error: got"):
        parse_level("1e-999999999", "error")


@pytest.mark.parametrize("text", ["1e-400", "1e-310", "1E-100"])
def test_a_level_that_vanishes_in_double_precision_is_refused(text: str) -> None:
    with pytest.raises(CalibrationError, match="error: got"):
        Guarantee.of("pac", text)
    assert Guarantee.of("pac", "1e-99").frames_needed() > 10**99


@given(st.fractions(min_value=Fraction(1, 10**9), max_value=1 - Fraction(1, 10**9)))
@example(Fraction(1071659972670197828541218817, 10**31))
def test_text_reads_back_exactly(level: Fraction) -> None:
    assert parse_level(level_text(level), "error") == level
