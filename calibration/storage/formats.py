"""What a reader says to a file of another version: made by an older rrise, or by a newer one, and what to do. Not: changed.

Every file that rrise writes names its format as text with a number at the end ("rrise-calibration/3"), or a name and a
number. Readers take every format that they know, and name the reason where they know none of them.
"""

from __future__ import annotations

import re
from typing import Any, Optional, Sequence, Type

from rrise.calibration.errors import CalibrationError, RriseError


def check_format(
    what: str, got: Any, known: Sequence[Any], mend: str, error: Type[RriseError] = CalibrationError
) -> None:
    """Refuse a file whose format is none of `known`.

    Args:
        what: names the file in the error.
        got: the format that it names, or None where it names none.
        known: the formats that this version reads, oldest first.
        mend: what makes it anew, where an older version wrote it.
        error: the class to raise.

    Raises:
        error: it is older or newer than all that are known, or no format of ours.
    """
    # Equal numbers of other types (1.0, True) are not what was written.
    if any(type(got) is type(item) and got == item for item in known):
        return
    number, newest = _number(got), _number(known[-1])
    readable = f"this one reads {', '.join(repr(item) for item in known)}"
    if number is None or newest is None or _family(got) != _family(known[-1]):
        raise error(
            f"{what}: got format {got!r}, expected one of {', '.join(repr(item) for item in known)}: not a file of this kind, "
            f"or one that is damaged; restore it, or {mend}"
        )
    if number > newest:
        raise error(
            f"{what}: written by a newer version of rrise (format {got!r}; {readable}); install that version here, or {mend}"
        )
    raise error(
        f"{what}: written by an older version of rrise (format {got!r}; {readable}); nothing is wrong with it, but it cannot "
        f"be used any more: {mend}"
    )


def _number(value: Any) -> Optional[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = re.fullmatch(r".*?/(\d{1,9})", value, re.ASCII) if isinstance(value, str) else None
    return None if found is None else int(found.group(1))


def _family(value: Any) -> str:
    return value.rpartition("/")[0] if isinstance(value, str) else ""
