"""The mathematics of rrise: bounds, ranks, offsets and certificates on arrays. Never runs a model; numpy only.

Importing this package loads nothing: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from rrise.calibration.errors import CalibrationError, CheckFailed, RriseError
    from rrise.calibration.promise.fit import RankCheck, calibrate, check_rank
    from rrise.calibration.promise.guarantee import Guarantee
    from rrise.calibration.promise.head import CertificateHead
    from rrise.calibration.promise.maps import IDENTITY, RadiusMap, clopper_pearson_map
    from rrise.calibration.promise.record import Calibration
    from rrise.calibration.statistics.levels import parse_level
    from rrise.calibration.statistics.probit import Prediction, probit_from_logits
    from rrise.calibration.storage.digests import (
        combined_digest,
        file_digest,
        frame_digest,
        frame_digests,
        json_digest,
    )
    from rrise.calibration.storage.execution import Execution
    from rrise.calibration.tables.certify import CertifyCounts, CertifyResult
    from rrise.calibration.tables.cost import CostEntry, CostLedger, break_even
    from rrise.calibration.tables.references import References
    from rrise.calibration.tables.scores import Scores

_HOMES = {
    "IDENTITY": "maps",
    "Calibration": "record",
    "CalibrationError": "errors",
    "CertificateHead": "head",
    "CertifyCounts": "certify",
    "CertifyResult": "certify",
    "CheckFailed": "errors",
    "CostEntry": "cost",
    "CostLedger": "cost",
    "Execution": "execution",
    "Guarantee": "guarantee",
    "Prediction": "probit",
    "RadiusMap": "maps",
    "RankCheck": "fit",
    "References": "references",
    "RriseError": "errors",
    "Scores": "scores",
    "break_even": "cost",
    "calibrate": "fit",
    "check_rank": "fit",
    "clopper_pearson_map": "maps",
    "combined_digest": "digests",
    "file_digest": "digests",
    "frame_digest": "digests",
    "frame_digests": "digests",
    "json_digest": "digests",
    "parse_level": "levels",
    "probit_from_logits": "probit",
}

__all__ = [
    "IDENTITY",
    "Calibration",
    "CalibrationError",
    "CertificateHead",
    "CertifyCounts",
    "CertifyResult",
    "CheckFailed",
    "CostEntry",
    "CostLedger",
    "Execution",
    "Guarantee",
    "Prediction",
    "RadiusMap",
    "RankCheck",
    "References",
    "RriseError",
    "Scores",
    "break_even",
    "calibrate",
    "check_rank",
    "clopper_pearson_map",
    "combined_digest",
    "file_digest",
    "frame_digest",
    "frame_digests",
    "json_digest",
    "parse_level",
    "probit_from_logits",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"calibration.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(__all__)
