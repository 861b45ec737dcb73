"""The certificate head: label and probit in, certified radius out. This is the numpy rendering; `export` has ONNX's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.maps import IDENTITY, RadiusMap

WITHHELD = float(np.float32(1e30))
"""Offset of a class that has none of its own beside classes that do: no raw radius reaches it, and unlike infinity it
may stand in an exported graph."""


@dataclass(frozen=True)
class CertificateHead:
    """R = max(m(sigma probit) - q u, 0), in float32, with m the map, q the offset and u the difficulty.

    A staircase issues the largest of its radii whose threshold m(sigma probit) - q u reaches, and 0 below all of them.

    Attributes:
        sigma: noise standard deviation, in [0, 1] pixel units.
        map: monotone map from plug-in to raw radius.
        offset: q as float32 values, one for all classes or one per predicted class. Infinity issues nothing.
        difficulty: whether the surrogate's difficulty u(x) > 0 scales the offset.
        threshold: selective rule: frames whose raw radius does not exceed it abstain. None is no rule.

    **Guarantee**: none by itself; the offset carries it (see `rrise.calibration.promise.fit`). Source: RRISE (arXiv 2606.02876).
    """

    sigma: float
    map: RadiusMap = IDENTITY
    offset: Tuple[float, ...] = (math.inf,)
    difficulty: bool = False
    threshold: Optional[float] = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise CalibrationError(
                f"sigma: got {self.sigma}, expected a positive number in [0, 1] pixel units"
            )
        offset = tuple(float(np.float32(value)) for value in self.offset)
        if not offset or any(math.isnan(value) or value == -math.inf for value in offset):
            raise CalibrationError(
                f"offset: got {self.offset}, expected one number or one per class, never NaN"
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise CalibrationError(f"threshold: got {self.threshold}, expected a finite radius or None")
        object.__setattr__(self, "offset", offset)

    @property
    def issues_nothing(self) -> bool:
        """True when an offset is infinite, which an exported graph must not contain."""
        return any(math.isinf(value) for value in self.offset)

    def raw_radius(self, probit: np.ndarray) -> np.ndarray:
        """m(sigma probit), float32 [n]."""
        with np.errstate(over="ignore"):
            return self.map(np.float32(self.sigma) * np.asarray(probit, np.float32))

    def margin(self, label: np.ndarray, difficulty: Optional[np.ndarray] = None) -> np.ndarray:
        """What is subtracted from the raw radius: q or q[label], times the difficulty; float32 [n]."""
        offset, label = np.array(self.offset, np.float32), np.asarray(label)
        if len(offset) > 1 and label.size and not ((label >= 0) & (label < len(offset))).all():
            raise CalibrationError(
                f"label: got {label.min()} to {label.max()}, expected 0 to {len(offset) - 1}: one offset per class"
            )
        taken = offset[label] if len(offset) > 1 else np.broadcast_to(offset, label.shape)
        if not self.difficulty:
            return taken
        if difficulty is None:
            raise CalibrationError(
                "difficulty: got None, expected float32 [n], because this head scales its offset by it"
            )
        return taken * np.asarray(difficulty, np.float32)

    def reach(
        self, probit: np.ndarray, label: np.ndarray, difficulty: Optional[np.ndarray] = None
    ) -> np.ndarray:
        """m(sigma probit) - q u, float32 [n]: what the map makes a certificate of; NaN where the probit is."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(self.raw_radius(probit) - self.margin(label, difficulty), np.float32)

    def radius(
        self, probit: np.ndarray, label: np.ndarray, difficulty: Optional[np.ndarray] = None
    ) -> np.ndarray:
        """Certified radius float32 [n], in [0, 1] pixel units; 0 means abstain, also for NaN input."""
        radius = self.map.issue(self.reach(probit, label, difficulty))
        issued = radius > 0
        if self.threshold is not None:
            issued &= self.raw_radius(probit) > np.float32(self.threshold)
        if self.difficulty:
            # A difficulty of zero or less would switch the offset off or turn it into a bonus, an infinite one would turn
            # a negative offset into an infinite radius.
            size = np.asarray(difficulty, np.float32)
            issued &= (size > 0) & (size < np.inf)
        return np.where(issued, radius, np.float32(0))

    def with_offset(self, offset: Sequence[float]) -> "CertificateHead":
        return replace(self, offset=tuple(offset))

    def to_json(self) -> Dict[str, Any]:
        """JSON has no infinity: an offset of "inf" is stored as text."""
        return {
            "sigma": self.sigma,
            "map": self.map.to_json(),
            "offset": ["inf" if math.isinf(value) else value for value in self.offset],
            "difficulty": self.difficulty,
            "threshold": self.threshold,
        }

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "CertificateHead":
        return cls(
            sigma=float(value["sigma"]),
            map=RadiusMap.from_json(value["map"]),
            offset=tuple(float(offset) for offset in value["offset"]),
            difficulty=bool(value["difficulty"]),
            threshold=None if value["threshold"] is None else float(value["threshold"]),
        )
