"""Field verification: replay stored frames on this device and say whether the guarantee still holds here.

Three things can be wrong, and each asks for another remedy, so they are told apart: this device computes something
else (numerics), the references do not belong to this bundle (references), the guarantee is violated (statistics).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

import numpy as np

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.record import Calibration
from rrise.calibration.tables.references import References
from rrise.deprecations import older_names
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.device.belonging import independent_rows, misfit, to_keep
from rrise.edge_sdk.device.binomial import upper_limit, upper_tail
from rrise.edge_sdk.device.device_calibration import load_device_calibration, remove_device_calibration
from rrise.edge_sdk.device.loading import ExecutionState, State, execution_state, matches_probe
from rrise.edge_sdk.device.replay import Replay, compare_with_recorded, margin_for
from rrise.edge_sdk.device.replayed import independent_units, replay_sentence
from rrise.edge_sdk.device.suspension import suspend
from rrise.edge_sdk.device.verification_record import VerificationRecord, remove_record, save_record
from rrise.edge_sdk.errors import BundleError, EdgeError
from rrise.edge_sdk.runtime.base import Outputs, Runtime

LEVEL = 0.01
"""The test of coverage rejects a bundle that keeps its promise with at most this probability."""

TOLERANCE = 0.01
"""Largest increase of a certificate over the recorded one that counts as rounding, in units of sigma."""


class VerificationVerdict(str, Enum):
    """What a verification found."""

    PASSED = "passed"
    NUMERICS = "numerics"
    REFERENCES = "references"
    STATISTICS = "statistics"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ClassCoverage:
    """Frames that were answered with one class: how many, how many certified, how many above their reference radius."""

    name: str
    frames: int
    issued: int
    exceeding: int


@dataclass(frozen=True)
class Coverage:
    """Exact binomial test: certificates above their reference radius, against the miscoverage of the guarantee.

    Attributes:
        frames: independent frames (one per clip; of the selective kind those with a certificate; of the whole-clip
            kind clips); exceeding: how many of them have a certificate above its reference radius.
        allowed_rate: alpha; p_value: P(this many or more | rate = alpha); upper: 99 % upper limit of the rate.
    """

    frames: int
    exceeding: int
    allowed_rate: float
    p_value: float
    upper: float


@dataclass(frozen=True)
class Verification:
    """Result of `verify`; true in a condition when it passed.

    Attributes:
        verdict: what was found; sentence: the same in words, with what to do.
        state: of the execution before this verification.
        new_frames: frames of the pack that were not recorded at export.
        margin: what is subtracted from every radius on this execution once verified.
        proves: what the replayed frames prove about this execution, in words; empty where it was calibrated.
        recorded_here: whether a verification record was written for this device.
    """

    verdict: VerificationVerdict
    sentence: str
    execution: str
    state: State
    frames: int
    new_frames: int
    replay: Optional[Replay]
    coverage: Optional[Coverage]
    classes: Tuple[ClassCoverage, ...]
    margin: float
    recorded_here: bool
    proves: str = ""

    def __bool__(self) -> bool:
        return self.verdict is VerificationVerdict.PASSED


def verify(
    bundle: Bundle,
    artefact: str,
    runtime: Runtime,
    references: References,
    *,
    tolerance: Optional[float] = None,
    level: float = LEVEL,
    write: bool = True,
    advance: Optional[Callable[[int], None]] = None,
) -> Verification:
    """Replay references on a loaded runtime.

    Args:
        tolerance: largest increase that counts as rounding, radius units; by default `TOLERANCE` sigma. None where given
            radii only are issued, since no margin covers a frame that rounding carries over a threshold, nor for the
            selective kind, since a margin changes which frames receive a certificate.
        level: of the coverage test.
        write: keep a passed verification in the bundle's device folder, so that `Certifier.load` issues
            certificates on this execution; a failed one withdraws an earlier record. A violated guarantee, and any failure
            of an execution that needs no record, suspend the bundle's certificates on this device.
        advance: called with the number of frames done since the last call.

    Raises:
        BundleError: the graph contradicts the bundle, or the artefact was never calibrated.
        EdgeError: a passed verification cannot be kept.

    **Guarantee**: of the coverage test: a bundle whose certificates exceed the reference radius with probability at
    most alpha fails with probability at most `level`, over independent frames with independent Monte Carlo noise.
    In the guarded tier it is made with fresh noise, while the comparison with what was recorded replays the recorded noise.
    """
    bundle.check_graph(artefact, runtime.graph)
    record = bundle.calibrations.get(artefact)
    if record is None:
        raise BundleError(
            f"artefact {artefact} was never calibrated: there is nothing to verify; export it with calibration"
        )
    before = _state(bundle, artefact, runtime)
    problem = misfit(bundle, record, references, split="verification")
    if problem:
        sentence = f"These references do not fit this bundle: {problem}."
        return _result(VerificationVerdict.REFERENCES, sentence, runtime, before.state, references)
    noise = bundle.replay_noise()
    outputs = run_all(runtime, references.frames, noise=noise, advance=advance)
    replay, paired = compare_with_recorded(bundle.recorded(artefact), record, references, outputs)
    if replay.other_counts:
        sentence = (
            f"These references do not fit this bundle: {replay.other_counts} frames have other counts than at its export; get the"
            " pack that was exported with this bundle."
        )
        return _result(VerificationVerdict.REFERENCES, sentence, runtime, before.state, references)
    calibrated = before.state is State.CALIBRATED
    margin = before.margin if calibrated else margin_for(replay)
    # Recorded draws are for the paired comparison; what live frames get is judged with fresh ones.
    live = outputs if noise is None else run_all(runtime, references.frames)
    radius = np.maximum(live.radius.astype(np.float64) - margin, 0.0)
    reference = references.radius[np.arange(len(references)), live.label]
    exceeds = radius > to_keep(reference, record.guarantee)
    coverage = _coverage(exceeds, radius > 0, references, record.guarantee)
    # What was calibrated on this device may differ from what was recorded elsewhere: its margin covers that.
    selective = record.guarantee.rules.among_issued
    usual = 0.0 if record.head.map.radii or selective else TOLERANCE * bundle.manifest.sigma
    limit = 0.0 if selective else usual if tolerance is None else tolerance
    here = load_device_calibration(bundle, runtime.execution) if calibrated else None
    broken = sum(_not_finite(part) for part in ([outputs] if live is outputs else [outputs, live]))
    verdict, sentence = _judge(replay, coverage, broken, limit if here is None else math.inf, level)
    keep = write and verdict is VerificationVerdict.PASSED and replay.complete and not calibrated
    independent = independent_units(references, record.guarantee, paired)
    proves = ""
    if verdict is VerificationVerdict.PASSED and replay.complete and not calibrated:
        proves = replay_sentence(record.guarantee, independent)
    if keep:
        digest = references.frames_digest
        probe = bundle.probe.fingerprint(runtime)
        saved = VerificationRecord(
            bundle.manifest.digest, runtime.execution, probe, digest, replay.frames, margin, independent
        )
        try:
            save_record(bundle, saved)
        except OSError as error:
            raise EdgeError(
                f"verify: passed, but its record cannot be kept ({error}); make the bundle's device folder writable, or make a"
                " dry run"
            ) from error
    elif write and verdict is not VerificationVerdict.PASSED:
        sentence += _withdraw(bundle, artefact, record, runtime, verdict, sentence)
    elif verdict is VerificationVerdict.PASSED and not replay.complete and not calibrated:
        sentence += (
            f" Only {replay.frames} of {replay.recorded} recorded frames were in this pack, so the execution stays"
            f" {before.state}: verify with the pack that was exported with the bundle."
        )
    return Verification(
        verdict=verdict,
        sentence=sentence,
        execution=runtime.execution.name,
        state=before.state,
        frames=len(references),
        new_frames=int((~paired).sum()),
        replay=replay,
        coverage=coverage,
        classes=_by_class(bundle.manifest.class_names, live.label, radius, exceeds),
        margin=margin,
        recorded_here=keep,
        proves=proves,
    )


def _withdraw(
    bundle: Bundle,
    artefact: str,
    record: Calibration,
    runtime: Runtime,
    verdict: VerificationVerdict,
    sentence: str,
) -> str:
    """Let this execution issue nothing from now on; what to add to the sentence where that cannot be kept."""
    try:
        remove_record(bundle, runtime.execution)
        # Of the bundle's own execution it stays: without it the bundle's offset alone would count, which is less.
        if not runtime.execution.same_as(record.execution):
            remove_device_calibration(bundle, runtime.execution)
        if (
            verdict is VerificationVerdict.STATISTICS
            or _state(bundle, artefact, runtime).state is not State.UNVERIFIED
        ):
            suspend(bundle, sentence)
    except OSError as error:
        return f" This could not be kept on the device ({error}), so nothing withholds certificates: make its folder writable."
    return ""


def _state(bundle: Bundle, artefact: str, runtime: Runtime) -> ExecutionState:
    try:
        return execution_state(bundle, artefact, runtime, matches_probe(bundle, artefact, runtime))
    except BundleError as error:
        # The probe or an old record disagrees: that is what this replay is there to judge.
        return ExecutionState(State.UNVERIFIED, str(error), 0.0, True)


def _coverage(
    exceeds: np.ndarray, issued: np.ndarray, references: References, guarantee: Guarantee
) -> Coverage:
    rows = independent_rows(references)
    wrong = guarantee.rules.counted(exceeds, clip=references.clip, independent=rows, issued=issued)
    exceeding, trials, alpha = int(wrong.sum()), len(wrong), guarantee.alpha
    return Coverage(
        trials,
        exceeding,
        float(alpha),
        upper_tail(exceeding, trials, alpha),
        upper_limit(exceeding, trials, 0.01),
    )


def _not_finite(outputs: Outputs) -> int:
    return int((~np.isfinite(outputs.probit) | ~np.isfinite(outputs.radius)).sum())


def _judge(
    replay: Replay, coverage: Coverage, broken: int, limit: float, level: float
) -> Tuple[VerificationVerdict, str]:
    if broken or replay.flipped_certified or not replay.largest_increase <= limit:
        return VerificationVerdict.NUMERICS, (
            f"This device computes something else than what was calibrated: {broken} answers are not finite,"
            f" {replay.flipped_certified} certified labels flipped, and radii grew by up to {replay.largest_increase:.3g}"
            f" (allowed {limit:.3g}). Do not use this execution: choose another runtime or provider, or calibrate this one"
            " with `rrise-edge recalibrate`."
        )
    if coverage.p_value < level:
        return VerificationVerdict.STATISTICS, (
            f"The guarantee is violated on these frames: {coverage.exceeding} of {coverage.frames} certificates exceed their"
            f" reference radius, where at most {coverage.allowed_rate:.3g} of them should (p = {coverage.p_value:.2g})."
            " The frames are no longer like those of the calibration: stop certifying, collect new calibration frames where the"
            " robot works, and calibrate again."
        )
    replayed = ""
    if replay.frames:
        replayed = (
            f"{replay.frames} recorded frames replayed, largest increase {replay.largest_increase:.3g}; "
        )
    return VerificationVerdict.PASSED, (
        f"This execution keeps the guarantee: {replayed}{coverage.exceeding} of {coverage.frames} certificates"
        f" exceed their reference radius (p = {coverage.p_value:.2g} at a rate of {coverage.allowed_rate:.3g})."
    )


def _by_class(
    names: Tuple[str, ...], label: np.ndarray, radius: np.ndarray, exceeds: np.ndarray
) -> Tuple[ClassCoverage, ...]:
    rows: List[ClassCoverage] = []
    for index, name in enumerate(names):
        mine = label == index
        rows.append(
            ClassCoverage(
                name, int(mine.sum()), int((mine & (radius > 0)).sum()), int((mine & exceeds).sum())
            )
        )
    return tuple(rows)


def _result(
    verdict: VerificationVerdict, sentence: str, runtime: Runtime, state: State, references: References
) -> Verification:
    name = runtime.execution.name
    return Verification(verdict, sentence, name, state, len(references), 0, None, None, (), 0.0, False)


if not TYPE_CHECKING:
    __getattr__ = older_names(__name__, {"Verdict": "VerificationVerdict", "ClassRow": "ClassCoverage"})
