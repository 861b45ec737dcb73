"""Calibrate an execution on the device itself, with numpy alone: what is subtracted on top of the graph's own offset.

The rule that is deployed is R = max(radius - m, 0) with the graph's issued radius and a margin m >= 0. With the scores
S_i = radius_i - reference_i, a certificate exceeds its reference exactly when S > m, so m is the same order statistic
as an offset (calibration/README.md, "Why: the true score"), whatever map, difficulty or per-class offsets the graph has
inside. Per class it is the largest of the classes' order statistics, for whole clips that of the clips' largest scores; a
selective guarantee can only be confirmed at margin 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.head import WITHHELD
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.attempts import AttemptLog, largest_attempt
from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.formats import check_format
from rrise.calibration.tables.references import References
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.device.belonging import independent_rows, misfit, to_keep
from rrise.edge_sdk.device.drift import forget_monitoring
from rrise.edge_sdk.device.suspension import lift
from rrise.edge_sdk.device.verification_record import remove_record
from rrise.edge_sdk.errors import BundleError, EdgeError
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER
from rrise.edge_sdk.runtime.base import Outputs, Runtime

CALIBRATION_FILE = "calibration.json"
ATTEMPTS_FILE = "attempts.jsonl"
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
        attempt: number in this device's log of the bundle, j; the rank is that of `guarantee.spent_here(a, j)`, with a the
            attempt that the bundle's own record is.
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
            check_format(
                "device calibration",
                value["format"],
                (FORMAT,),
                "run `rrise-edge recalibrate` again",
                BundleError,
            )
            check_format(
                "device calibration",
                value["version"],
                (VERSION,),
                "run `rrise-edge recalibrate` again",
                BundleError,
            )
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

    **Guarantee**: that of the bundle, for this execution, over frames like these, whichever attempt is kept, and whichever
    bundle of its product: attempt j at calibrating this bundle on this device, on whatever frames, spends a share of delta
    that its own attempt and the bundle's decide (`Guarantee.spent_here`); the shares of all attempts at all bundles are at
    most delta together. Each frame is used once; in the guarded tier with one fresh draw of noise, so that there the same
    frames again are another attempt.
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
    outputs = run_all(runtime, references.frames, advance=advance)
    if not (np.isfinite(outputs.radius).all() and (outputs.radius >= 0).all()):
        raise EdgeError(
            "recalibrate: this execution gives radii that are negative or not finite; use another runtime"
        )
    # Logged before the margin is known, and for a dry run too: who looks twice and keeps the better has two tries.
    attempt = _log(bundle, runtime, references)
    # A bundle may have been kept as the best of several, and these may be the frames that it was chosen by.
    found = _fit(record, record.guarantee.spent_here(record.attempt, attempt), references, outputs)
    result = DeviceCalibration(
        release=bundle.manifest.digest,
        execution=runtime.execution,
        probe=bundle.probe.fingerprint(runtime),
        references=references.frames_digest,
        frames=found.frames,
        rank=found.rank,
        margin=found.margin,
        attempt=attempt,
    )
    if write:
        bundle.keep(bundle.device_folder(runtime.execution) / CALIBRATION_FILE, result.to_json())
        remove_record(bundle, runtime.execution)
        lift(bundle)
        forget_monitoring(bundle.device_folder(runtime.execution))
    return result


def _attempts(bundle: Bundle) -> AttemptLog:
    return AttemptLog(bundle.path / DEVICE_FOLDER / ATTEMPTS_FILE)


def _log(bundle: Bundle, runtime: Runtime, references: References) -> int:
    """Number of this attempt, over all frames and executions of this bundle on this device."""
    log = _attempts(bundle)
    attempt = {
        "release": bundle.manifest.digest,
        "execution": runtime.execution.to_json(),
        "references": references.content_digest,
    }
    if runtime.graph.signature.noise_shape is not None:
        attempt["draw"] = str(len(log.lines()) + 1)  # fresh noise: never the same computation
    records = (bundle.path / DEVICE_FOLDER).glob(f"*/{CALIBRATION_FILE}")
    try:
        bundle.check_in_place()
        return log.append(references.frames_digest, attempt, seen=largest_attempt(records))
    except OSError as error:
        raise EdgeError(
            f"recalibrate: cannot log this attempt in {log.path} ({error.strerror or error}); every attempt is counted, so make"
            " the folder writable or work on a copy of the bundle"
        ) from error


@dataclass(frozen=True)
class _Found:
    """A margin, and the rank among how many units it is."""

    margin: float
    frames: int
    rank: int


def _fit(record: Calibration, guarantee: Guarantee, references: References, outputs: Outputs) -> _Found:
    """The margin that keeps `guarantee`, which is no weaker than the record's.

    Raises:
        EdgeError: too few units, or none keeps it.
    """
    rules = guarantee.rules
    rows = np.arange(len(references)) if rules.whole_clips else independent_rows(references)
    label, radius = outputs.label[rows], outputs.radius[rows].astype(np.float64)
    stored = references.radius[rows, label]
    # A reference radius above what its counts prove would make the margin too small.
    beyond = references.unproved(rows, label)
    if beyond.any():
        raise EdgeError(
            f"recalibrate: {int(beyond.sum())} reference radii are larger than their counts prove; make the pack again"
        )
    reference = to_keep(stored, guarantee).astype(np.float64)
    if rules.whole_clips:
        clips = references.clip[rows]
        _refuse_shared_frames(references)
        rank = _rank(guarantee, len(np.unique(clips)), "clips")
        return _Found(smallest_margin(radius, reference, rank, clips), len(np.unique(clips)), rank)
    if rules.by_class:
        return _per_class(record, guarantee, references, label, radius, reference)
    if rules.among_issued:
        return _unchanged(guarantee, radius, reference)
    rank = _rank(guarantee, len(rows), "frames")
    return _Found(smallest_margin(radius, reference, rank), len(rows), rank)


def _per_class(
    record: Calibration,
    guarantee: Guarantee,
    references: References,
    label: np.ndarray,
    radius: np.ndarray,
    reference: np.ndarray,
) -> _Found:
    """The largest of the classes' margins: each class's own, or more, keeps that class's statement."""
    # One offset for all is every class's.
    offsets = np.broadcast_to(record.head.offset, len(references.class_names))
    margins, ranks, frames = [], 0, 0
    for number, name in enumerate(references.class_names):
        if not math.isfinite(offsets[number]) or offsets[number] >= WITHHELD:
            continue  # no certificate is ever issued for it
        mine = label == number
        rank = _rank(guarantee, int(mine.sum()), f"frames that are given class {name}")
        margins.append(smallest_margin(radius[mine], reference[mine], rank))
        ranks, frames = ranks + rank, frames + int(mine.sum())
    return _Found(max(margins), frames, ranks)


def _unchanged(guarantee: Guarantee, radius: np.ndarray, reference: np.ndarray) -> _Found:
    """Margin 0, where the frames that receive a certificate keep the selective guarantee without one.

    A margin above 0 would also change which frames receive a certificate: fewer right ones could be left than wrong
    ones, so that the share of wrong ones grows with the margin.
    """
    issued = radius > 0
    rank = _rank(guarantee, int(issued.sum()), "frames that receive a certificate")
    exceeding = int((radius > reference)[issued].sum())
    if exceeding > int(issued.sum()) - rank:
        raise EdgeError(
            f"recalibrate: {exceeding} of {int(issued.sum())} certificates exceed their reference, the selective guarantee"
            f" permits {int(issued.sum()) - rank}, and no margin can mend that, since it would change which frames"
            " receive a certificate; export the bundle with this execution's own scores"
        )
    return _Found(0.0, int(issued.sum()), rank)


def _rank(guarantee: Guarantee, count: int, unit: str) -> int:
    rank = guarantee.rank(count)
    if rank is None:
        raise EdgeError(
            f"recalibrate: got {count} independent {unit}, expected at least {guarantee.frames_needed()} for"
            f" error {float(guarantee.error):g} ({guarantee.kind}); collect more"
        )
    return rank


def _refuse_shared_frames(references: References) -> None:
    """Clips with a frame in common are not independent."""
    pairs = set(zip(references.digest.tolist(), references.clip.tolist()))
    shared = len(pairs) - len(set(references.digest.tolist()))
    if shared:
        raise EdgeError(
            f"recalibrate: {shared} frames occur in more than one clip, expected clips of their own; remove the copies"
        )


def smallest_margin(
    radius: np.ndarray, reference: np.ndarray, rank: int, unit: Optional[np.ndarray] = None
) -> float:
    """Smallest m >= 0 for which at most n - rank units exceed: frames whose max(radius - m, 0) exceeds the reference.

    Args:
        radius, reference: float64 [frames], >= 0; compared in float64, as deployed.
        rank: 1 <= rank <= n, the number of units.
        unit: int [frames], which frames are one unit, that exceeds when one of them does; None: each its own.
    """
    names, place = np.unique(np.arange(len(radius)) if unit is None else unit, return_inverse=True)
    largest = np.full(len(names), -np.inf)
    np.maximum.at(largest, place, radius - reference)
    margin = max(float(np.sort(largest)[rank - 1]), 0.0)
    while len(np.unique(place[np.maximum(radius - margin, 0.0) > reference])) > len(names) - rank:
        margin = math.nextafter(margin, math.inf)
    return margin


def load_device_calibration(bundle: Bundle, execution: Execution) -> Optional[DeviceCalibration]:
    """The calibration of this very execution and release on this device, or None.

    Raises:
        BundleError: there is one, but it was changed, or the log of attempts does not show it.
    """
    value = bundle.device_record(bundle.device_folder(execution) / CALIBRATION_FILE, "device calibration")
    if value is None:
        return None
    record = DeviceCalibration.from_json(value)
    if record.release != bundle.manifest.digest or not execution.same_as(record.execution):
        return None
    _check_logged(bundle, record)
    return record


def _check_logged(bundle: Bundle, record: DeviceCalibration) -> None:
    """A record whose attempt is not in the log could be one of many. Raises: BundleError."""
    log = _attempts(bundle)
    try:
        known = log.different()
    except CalibrationError as error:
        raise BundleError(f"device calibration: {error}") from error
    frames, attempt = known[record.attempt - 1] if 0 < record.attempt <= len(known) else ("", {})
    got = (frames, attempt.get("release"), attempt.get("execution"))
    if got != (record.references, record.release, record.execution.to_json()):
        raise BundleError(
            f"device calibration: {log.path} does not show attempt {record.attempt}, on these frames by this execution;"
            " restore the log, or run `rrise-edge recalibrate` again"
        )


def remove_device_calibration(bundle: Bundle, execution: Execution) -> None:
    """Withdraw a device calibration, after a verification that found it violated."""
    (bundle.device_folder(execution) / CALIBRATION_FILE).unlink(missing_ok=True)
