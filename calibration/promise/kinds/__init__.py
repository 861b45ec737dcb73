"""The kinds of guarantee, one object each: a new kind is a module of this room and its line here."""

from __future__ import annotations

from typing import Dict, Tuple

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.kinds.classes import PER_CLASS
from rrise.calibration.promise.kinds.clips import WHOLE_CLIP
from rrise.calibration.promise.kinds.frames import MARGINAL, PAC
from rrise.calibration.promise.kinds.issued import SELECTIVE
from rrise.calibration.promise.kinds.kind import Kind

RULES: Dict[str, Kind] = {kind.name: kind for kind in (PAC, MARGINAL, SELECTIVE, PER_CLASS, WHOLE_CLIP)}
KINDS: Tuple[str, ...] = tuple(RULES)
"""What a share of wrong certificates is taken over: frames (pac, marginal), frames that receive a certificate
(selective), frames of each predicted class (per-class), clips (whole-clip)."""


def kind_named(name: str) -> Kind:
    """The kind of that name, as settings and records write it.

    Raises:
        CalibrationError: there is none.
    """
    if name not in RULES:
        raise CalibrationError(f"guarantee: got kind {name!r}, expected one of {', '.join(KINDS)}")
    return RULES[name]
