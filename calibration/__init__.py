"""The mathematics of rrise: bounds, ranks, offsets and certificates on arrays. Never runs a model; numpy only.

Importing this package loads nothing: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rrise.lazy import lazily
from rrise.names import stand_in

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
    "IDENTITY": "promise.maps",
    "Calibration": "promise.record",
    "CalibrationError": "errors",
    "CertificateHead": "promise.head",
    "CertifyCounts": "tables.certify",
    "CertifyResult": "tables.certify",
    "CheckFailed": "errors",
    "CostEntry": "tables.cost",
    "CostLedger": "tables.cost",
    "Execution": "storage.execution",
    "Guarantee": "promise.guarantee",
    "Prediction": "statistics.probit",
    "RadiusMap": "promise.maps",
    "RankCheck": "promise.fit",
    "References": "tables.references",
    "RriseError": "errors",
    "Scores": "tables.scores",
    "break_even": "tables.cost",
    "calibrate": "promise.fit",
    "check_rank": "promise.fit",
    "clopper_pearson_map": "promise.maps",
    "combined_digest": "storage.digests",
    "file_digest": "storage.digests",
    "frame_digest": "storage.digests",
    "frame_digests": "storage.digests",
    "json_digest": "storage.digests",
    "parse_level": "statistics.levels",
    "probit_from_logits": "statistics.probit",
}

# In full: type checkers read it.
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

__getattr__, __dir__ = lazily(__name__, _HOMES)

if __name__ != "rrise.calibration":  # found in a checkout by the folder's own name
    stand_in(__name__)
