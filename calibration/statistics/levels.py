"""Levels (error, confidence, beta) as exact rationals, because ranks computed from rounded levels are wrong."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Union

from rrise.calibration.errors import CalibrationError

Level = Union[str, float, Fraction]

LONGEST = 300
"""Characters of a level's text: levels that were split among attempts and stages are ratios of long numbers."""


def parse_level(value: Level, name: str) -> Fraction:
    """Read a level strictly between 0 and 1 exactly: "0.045", "9/200", 0.045 and Fraction(9, 200) are equal.

    A float is read through its shortest decimal text, since `Fraction(0.045)` is not 9/200.

    Raises:
        CalibrationError: not a number, or outside (0, 1).

    >>> parse_level("0.045", "error")
    Fraction(9, 200)
    """
    try:
        level = value if isinstance(value, Fraction) else _exact(str(value))
    except (ValueError, ZeroDivisionError):
        raise CalibrationError(
            f"{name}: got {value!r}, expected a number strictly between 0 and 1 such as 0.05"
        ) from None
    if not 0 < level < 1:
        raise CalibrationError(
            f"{name}: got {value}, expected a number strictly between 0 and 1 such as 0.05"
        )
    return level


def _exact(text: str) -> Fraction:
    # "1e-999999999" would be a number of a billion digits, and below 1e-300 a level vanishes in double precision.
    if len(text) > LONGEST or re.search(r"[eE][+-]?\d{3}", text):
        raise ValueError(text)
    return Fraction(text)


def level_text(level: Fraction) -> str:
    """The level as text that `parse_level` reads back exactly: a decimal where one exists, else a ratio.

    >>> level_text(Fraction(9, 200)), level_text(Fraction(1, 3))
    ('0.045', '1/3')
    """
    decimal = repr(float(level))
    return decimal if Fraction(decimal) == level else f"{level.numerator}/{level.denominator}"
