"""Audits: does the share of wrong certificates exceed what the bundle promises? Judged whenever there is one."""

from __future__ import annotations

import math
from pathlib import Path

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.statistics.drift import SleepingMartingale, WrongRateTest
from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.files import present
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.errors import BundleError, EdgeError
from rrise.edge_sdk.formats.sealed import read_sealed

STATE_FILE = "audit-state.json"
FORMATS = ("rrise-audit-state/1",)
ALPHA = 0.005
"""Probability of ever alarming about a bundle whose share of wrong certificates is within its error level."""


class AuditLog:
    """Evidence from audits of one execution on this device, kept across restarts."""

    def __init__(self, bundle: Bundle, execution: Execution, guarantee: Guarantee) -> None:
        """Raises: EdgeError: audits of frames say nothing about this guarantee. OSError: nothing can be kept here."""
        if guarantee.rules.not_audited:
            raise EdgeError(f"audit: {guarantee.rules.not_audited}; audit with another kind")
        self._path = bundle.device_folder(execution) / STATE_FILE
        self._error = float(guarantee.error)
        self._test = WrongRateTest(self._error)
        self._bundle = bundle
        if present(self._path):
            self._test.martingale = _restore(self._path, self._test)
        self._keep()

    def _keep(self) -> None:
        self._bundle.keep(self._path, {"format": FORMATS[-1], **self._test.martingale.to_json()})

    def add(self, wrong: bool, slip: float = 0.0) -> str:
        """Count one audit and keep it; the reason for an alarm, or an empty text.

        Args:
            slip: probability with which a right certificate is called wrong by such an audit; the bet of this audit
                is against error + slip.

        Raises:
            EdgeError: error + slip is not below 1. OSError: cannot be kept.
        """
        if not (slip >= 0 and self._error + slip < 1):
            raise EdgeError(
                f"audit: got slip {slip} beside error {self._error}, expected a sum below 1; make audits more careful"
            )
        # Every audit bets against its own null, and all bets share one wealth: each factor has mean at most 1.
        bet = WrongRateTest(self._error + slip)
        bet.martingale = self._test.martingale
        bet.update(wrong)
        self._keep()
        if self._test.log_wealth < -math.log(ALPHA):
            return ""
        return (
            f"audits: more certificates are wrong than the bundle promises (evidence"
            f" {math.exp(min(self._test.log_wealth, 50)):.3g} to 1 after {self._test.martingale.seen} audits)"
        )


def _restore(path: Path, test: WrongRateTest) -> SleepingMartingale:
    value = read_sealed(path, "audit log", formats=FORMATS, mend="run `rrise-edge reset`")
    try:
        return SleepingMartingale.from_json(value, test.bets)
    except CalibrationError as error:
        raise BundleError(f"audit log: {error}; run `rrise-edge reset`") from error
