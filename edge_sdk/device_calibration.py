"""Calibrate an execution on the device itself, with numpy alone: what is subtracted on top of the graph's own offset.

The rule that is deployed is R = max(radius - m, 0) with the graph's issued radius and a margin m >= 0. With the scores
S_i = radius_i - reference_i, a certificate exceeds its reference exactly when S > m, so m is the same order statistic
as an offset (MATHEMATICS 2), whatever map, difficulty or per-class offsets the graph has inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

import numpy as np

from calibration.execution import Execution
from calibration.references import References
from edge_sdk.bundle import Bundle
from edge_sdk.drift import forget
from edge_sdk.errors import BundleError, EdgeError
from edge_sdk.fit import independent_rows, misfit, to_keep
from edge_sdk.runtime.base import Runtime
from edge_sdk.scoring import run_all
from edge_sdk.sealed import read_sealed, write_sealed
from edge_sdk.suspension import lift
from edge_sdk.verification_record import remove_record

CALIBRATION_FILE = "calibration.json"
FORMAT = "rrise-device-calibration"
VERSION = 1


@dataclass(frozen=True)
class DeviceCalibration:
    """A calibration made on this device.

    Attributes:
        release: digest of the bundle's manifest.
        execution: what was calibrated.
        probe: `Probe.fingerprint` of this device.
        references: digest of the frames.
        frames: n, independent frames; rank: k, counted from 1.
        margin: radius units, >= 0; subtracted from every radius of this execution.
        attempt: how often this execution was calibrated here; above 1 the promise no longer holds as stated, unless
            the frames were new each time.
    """

    release: str
    execution: Execution
    probe: str
    references: str
    frames: int
    rank: int
    margin: float
    attempt: int

    def to_json(self) -> Dict[str, Any]:
        value = {
            name: getattr(self, name)
            for name in ("release", "probe", "references", "frames", "rank", "margin", "attempt")
        }
        return {"format": FORMAT, "version": VERSION, "execution": self.execution.to_json(), **value}

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "DeviceCalibration":
        """Raises: BundleError: another format, or a missing or impossible entry."""
        try:
            if (value["format"], value["version"]) != (FORMAT, VERSION):
                raise ValueError(f"got {value['format']!r} version {value['version']!r}")
            record = cls(
                release=str(value["release"]),
                execution=Execution.from_json(value["execution"]),
                probe=str(value["probe"]),
                references=str(value["references"]),
                frames=int(value["frames"]),
                rank=int(value["rank"]),
                margin=float(value["margin"]),
                attempt=int(value["attempt"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"device calibration: {error!r}; run `rrise-edge recalibrate` again") from error
        if not (math.isfinite(record.margin) and record.margin >= 0 and 0 < record.rank <= record.frames):
            raise BundleError(
                f"device calibration: margin {record.margin}, rank {record.rank} of {record.frames};"
                " run `rrise-edge recalibrate` again"
            )
        return record


def recalibrate(
    bundle: Bundle,
    artefact: str,
    runtime: Runtime,
    references: References,
    *,
    write: bool = True,
    advance: Optional[Callable[[int], None]] = None,
) -> DeviceCalibration:
    """Calibrate a loaded execution on this device, for the guarantee of the bundle.

    Args:
        references: pack of split "calibration": frames that nothing was trained, tuned or chosen on, with counts of
            the bundle's base classifier. New ones from where the robot works are welcome.
        write: keep the result in the bundle's device folder, where `Certifier.load` finds it; a suspension ends.

    Raises:
        EdgeError: the references do not fit, or are too few (says how many are needed).
        BundleError: the graph contradicts the bundle, or the artefact was never calibrated.

    **Guarantee**: that of the bundle, for this execution, over frames like these. Each frame is used once; in the
    guarded tier with one fresh draw of noise.
    """
    bundle.check_graph(artefact, runtime.graph)
    record = bundle.calibrations.get(artefact)
    if record is None:
        raise BundleError(
            f"artefact {artefact} was never calibrated, so there is no guarantee to keep; export it with one"
        )
    problem = misfit(bundle, record, references, split="calibration")
    if problem:
        raise EdgeError(f"recalibrate: these references do not fit this bundle: {problem}")
    if record.guarantee.kind not in ("pac", "marginal"):
        raise EdgeError(
            f"recalibrate: a guarantee of kind {record.guarantee.kind!r} has no single margin; export the bundle with this"
            " execution's own scores, or with kind 'pac'"
        )
    rows = independent_rows(references)
    rank = record.guarantee.rank(len(rows))
    if rank is None:
        raise EdgeError(
            f"recalibrate: got {len(rows)} independent frames, expected at least {record.guarantee.frames_needed()} for"
            f" error {float(record.guarantee.error):g}; collect more"
        )
    outputs = run_all(runtime, references.frames, advance=advance)
    if not (np.isfinite(outputs.radius).all() and (outputs.radius >= 0).all()):
        raise EdgeError(
            "recalibrate: this execution gives radii that are negative or not finite; use another runtime"
        )
    radius = outputs.radius[rows].astype(np.float64)
    reference = to_keep(references.radius[rows, outputs.label[rows]], record.guarantee).astype(np.float64)
    margin = smallest_margin(radius, reference, rank)
    earlier = load_device_calibration(bundle, runtime.execution)
    result = DeviceCalibration(
        release=bundle.manifest.digest,
        execution=runtime.execution,
        probe=bundle.probe.fingerprint(runtime),
        references=references.frames_digest,
        frames=len(rows),
        rank=rank,
        margin=margin,
        attempt=1 if earlier is None else earlier.attempt + 1,
    )
    if write:
        write_sealed(bundle.device_folder(runtime.execution) / CALIBRATION_FILE, result.to_json())
        remove_record(bundle, runtime.execution)
        lift(bundle)
        forget(bundle.device_folder(runtime.execution))
    return result


def smallest_margin(radius: np.ndarray, reference: np.ndarray, rank: int) -> float:
    """Smallest m >= 0 for which at most n - rank of max(radius - m, 0) exceed the reference, in float64 as deployed.

    Args:
        radius, reference: float64 [n], >= 0.
        rank: 1 <= rank <= n.
    """
    margin = max(float(np.sort(radius - reference)[rank - 1]), 0.0)
    while int((np.maximum(radius - margin, 0.0) > reference).sum()) > len(radius) - rank:
        margin = math.nextafter(margin, math.inf)
    return margin


def load_device_calibration(bundle: Bundle, execution: Execution) -> Optional[DeviceCalibration]:
    """The calibration of this very execution and release on this device, or None.

    Raises:
        BundleError: there is one, but it was changed.
    """
    path = bundle.device_folder(execution) / CALIBRATION_FILE
    if not path.exists():
        return None
    bundle.check_device_record(path)
    record = DeviceCalibration.from_json(read_sealed(path, "device calibration"))
    if record.release != bundle.manifest.digest or not execution.same_as(record.execution):
        return None
    return record


def remove_device_calibration(bundle: Bundle, execution: Execution) -> None:
    """Withdraw a device calibration, after a verification that found it violated."""
    (bundle.device_folder(execution) / CALIBRATION_FILE).unlink(missing_ok=True)
