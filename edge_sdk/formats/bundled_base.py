"""What a manifest says about a base classifier that travels in the bundle: its file, who counted it, and other engines."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from rrise.edge_sdk.errors import BundleError

BASE_FILE = "base.onnx"


@dataclass(frozen=True)
class EngineAgreement:
    """How far another engine is the same classifier, as `rrise-train agree` measured it.

    Attributes:
        engine: the other one, as a targets store names engines. split: whose frames were compared.
        draws, differing: paired evaluations, and how many of them differed.
        tolerance: t; slip: at most this share of these frames is answered differently with a probability above t, with
            probability `confidence` over the draws.
    """

    engine: str
    split: str
    draws: int
    differing: int
    tolerance: float
    slip: float
    confidence: float

    def __post_init__(self) -> None:
        numbers = (self.tolerance, self.slip, self.confidence)
        if not (all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in numbers)):
            raise BundleError(
                f"manifest base: got {self}, expected shares in [0, 1]; export the bundle again"
            )


@dataclass(frozen=True)
class EngineDifference:
    """What an audit owes to the engine that it asks. known: whether the two engines are one, or were compared."""

    known: bool
    tolerance: float
    slip: float
    sentence: str


@dataclass(frozen=True)
class BundledBase:
    """The base classifier in a bundle; its SHA-256 is the manifest's `base_digest`.

    Attributes:
        file: path within the bundle. size: bytes.
        engine: that counted the references, as the targets store names it; empty where it is not known.
        agreements: of that engine with others.
    """

    file: str
    size: int
    engine: str = ""
    agreements: Tuple[EngineAgreement, ...] = ()

    def difference(self, engine: str) -> EngineDifference:
        """What a judge that asks `engine` subtracts; 0 where nothing is known, and the sentence says so."""
        if engine == self.engine:
            return EngineDifference(True, 0.0, 0.0, f"{engine} counted the references too")
        for found in self.agreements:
            if found.engine == engine:
                return EngineDifference(
                    True,
                    found.tolerance,
                    found.slip,
                    f"{engine} differed from {self.engine} on {found.differing} of {found.draws:,} draws: tolerance"
                    f" {found.tolerance:.3g}, slip {found.slip:g}",
                )
        return unknown_difference(self.engine, engine)

    def to_json(self) -> Dict[str, Any]:
        return {
            "file": self.file,
            "size": self.size,
            "engine": self.engine,
            "agreements": [asdict(one) for one in self.agreements],
        }

    @classmethod
    def from_json(cls, value: Optional[Mapping[str, Any]]) -> "Optional[BundledBase]":
        """Raises: KeyError, TypeError, ValueError, BundleError."""
        if value is None:
            return None
        agreements = tuple(EngineAgreement(**dict(entry)) for entry in value["agreements"])
        return cls(str(value["file"]), int(value["size"]), str(value["engine"]), agreements)


def unknown_difference(counted: str, engine: str) -> EngineDifference:
    """Two engines of which nobody measured how often they differ."""
    who = counted or "the engine that counted the references"
    return EngineDifference(
        False,
        0.0,
        0.0,
        f"how often {engine} and {who} differ was not measured, and nothing is subtracted for it",
    )
