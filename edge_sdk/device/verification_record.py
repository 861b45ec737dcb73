"""What `rrise-edge verify` leaves on a device: proof that one execution was replayed here and kept its radii."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Optional

from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.formats import check_format
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.errors import BundleError

RECORD_FILE = "verification.json"
FORMAT = "rrise-verification"
VERSION = 1


@dataclass(frozen=True)
class VerificationRecord:
    """A passed verification.

    Attributes:
        release: digest of the bundle's manifest.
        execution: what was replayed.
        probe: `Probe.fingerprint` of this device.
        references: digest of the frames.
        frames: how many were replayed.
        margin: largest increase of a certificate over the recorded one, rounded up; subtracted from every radius here.
        independent: how many of the frames (clips) are independent; 0 in a record of before this was counted.
    """

    release: str
    execution: Execution
    probe: str
    references: str
    frames: int
    margin: float
    independent: int = 0

    def to_json(self) -> Dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "release": self.release,
            "execution": self.execution.to_json(),
            "probe": self.probe,
            "references": self.references,
            "frames": self.frames,
            "margin": self.margin,
            "independent": self.independent,
        }

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "VerificationRecord":
        """Raises: BundleError: another format, or a missing or impossible entry."""
        try:
            check_format(
                "verification record",
                value["format"],
                (FORMAT,),
                "run `rrise-edge verify` again",
                BundleError,
            )
            check_format(
                "verification record",
                value["version"],
                (VERSION,),
                "run `rrise-edge verify` again",
                BundleError,
            )
            record = cls(
                release=str(value["release"]),
                execution=Execution.from_json(value["execution"]),
                probe=str(value["probe"]),
                references=str(value["references"]),
                frames=int(value["frames"]),
                margin=float(value["margin"]),
                independent=int(value.get("independent", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"verification record: {error!r}; run `rrise-edge verify` again") from error
        if not (
            math.isfinite(record.margin)
            and record.margin >= 0
            and record.frames >= max(record.independent, 1)
        ):
            raise BundleError(
                f"verification record: margin {record.margin} on {record.frames} frames; run `rrise-edge verify` again"
            )
        return record


def save_record(bundle: Bundle, record: VerificationRecord) -> None:
    """Write the record into the bundle's device folder, atomically."""
    bundle.keep(bundle.device_folder(record.execution) / RECORD_FILE, record.to_json())


def load_record(bundle: Bundle, execution: Execution) -> Optional[VerificationRecord]:
    """The record of this very execution and release, or None where it was never verified here.

    Raises:
        BundleError: there is a record, but it was changed.
    """
    value = bundle.device_record(bundle.device_folder(execution) / RECORD_FILE, "verification record")
    if value is None:
        return None
    record = VerificationRecord.from_json(value)
    if record.release != bundle.manifest.digest or not execution.same_as(record.execution):
        return None
    return record


def remove_record(bundle: Bundle, execution: Execution) -> None:
    """Withdraw a verification, after one that failed."""
    (bundle.device_folder(execution) / RECORD_FILE).unlink(missing_ok=True)
