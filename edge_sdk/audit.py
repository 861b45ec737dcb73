"""Audits: does the share of wrong certificates exceed what the bundle promises? Judged whenever there is one."""

from __future__ import annotations

import math
from pathlib import Path

from calibration.drift import SleepingMartingale, WrongRateTest
from calibration.errors import CalibrationError
from calibration.execution import Execution
from calibration.guarantee import Guarantee
from edge_sdk.bundle import Bundle
from edge_sdk.errors import BundleError, EdgeError
from edge_sdk.sealed import read_sealed, write_sealed

STATE_FILE = "audit-state.json"
ALPHA = 0.005
"""Probability of ever alarming about a bundle whose share of wrong certificates is within its error level."""


class AuditLog:
    """Evidence from audits of one execution on this device, kept across restarts."""

    def __init__(self, bundle: Bundle, execution: Execution, guarantee: Guarantee) -> None:
        if guarantee.kind == "whole-clip":
            raise EdgeError(
                "audit: a guarantee of kind whole-clip speaks of clips, not of frames; audit with another kind"
            )
        self._path = bundle.device_folder(execution) / STATE_FILE
        self._test = WrongRateTest(float(guarantee.error))
        if self._path.exists():
            self._test.martingale = _restore(self._path, self._test)

    def add(self, wrong: bool) -> str:
        """Count one audit and keep it; the reason for an alarm, or an empty text. Raises: OSError: cannot be kept."""
        self._test.update(wrong)
        write_sealed(self._path, self._test.martingale.to_json())
        if self._test.log_wealth < -math.log(ALPHA):
            return ""
        return (
            f"audits: more certificates are wrong than the bundle promises (evidence"
            f" {math.exp(min(self._test.log_wealth, 50)):.3g} to 1 after {self._test.martingale.seen} audits)"
        )


def _restore(path: Path, test: WrongRateTest) -> SleepingMartingale:
    value = read_sealed(path, "audit log")
    try:
        return SleepingMartingale.from_json(value, test.bets)
    except CalibrationError as error:
        raise BundleError(f"audit log: {error}; run `rrise-edge reset`") from error
