"""The mathematics of rrise: bounds, ranks, offsets and certificates on arrays. Never runs a model; numpy only."""

from calibration.certify import CertifyCounts, CertifyResult, certify
from calibration.cost import CostEntry, CostLedger, break_even
from calibration.digests import combined_digest, file_digest, frame_digest, frame_digests, json_digest
from calibration.errors import CalibrationError, CheckFailed, RriseError
from calibration.execution import Execution
from calibration.fit import RankCheck, calibrate, check_rank
from calibration.guarantee import Guarantee
from calibration.head import CertificateHead
from calibration.levels import parse_level
from calibration.maps import IDENTITY, RadiusMap, clopper_pearson_map
from calibration.probit import Prediction, probit_from_logits
from calibration.record import Calibration
from calibration.references import References
from calibration.scores import Scores

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
    "certify",
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
