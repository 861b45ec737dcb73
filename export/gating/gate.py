"""The gate: opens a bundle as a user would and decides, artefact by artefact, whether it may be released."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, Mapping, Optional, Tuple

import numpy as np

from rrise.calibration.errors import RriseError
from rrise.calibration.promise.fit import check_rank
from rrise.calibration.promise.offsets import independent_frames, proved_reference, reference_for
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.onnx_limits import MAX_IR_VERSION, OPSET
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.device.loading import State, matches_probe
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.contract import same_float32
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.edge_sdk.runtime.base import Runtime
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export.errors import ExportError
from rrise.export.gating.compare import TOLERANCES, Answers, Comparison, Tolerance, compare_outputs, graded
from rrise.export.gating.gate_guarded import check_guarded_certifier
from rrise.export.gating.gate_report import (
    ABSTAIN_FLIPS,
    CERTIFIED_FRAMES,
    LABEL_FLIPS,
    PROBIT_CHANGE,
    RADIUS_INCREASE,
    Check,
    GateReport,
)

if TYPE_CHECKING:
    import onnx

COVERAGE_FALSE_ALARM = 1e-4
"""Probability that the coverage check stops a release whose true miscoverage is exactly alpha."""
ISSUES = "issues certificates"
Reference = Callable[[np.ndarray], Tuple[np.ndarray, np.ndarray, Optional[np.ndarray]]]
"""The PyTorch surrogate: frames -> label, probit, difficulty or None."""


def gate(
    path: Path,
    artefact: str,
    calibration: References,
    verification: References,
    reference: Reference,
    *,
    scored: Optional[Scores] = None,
    tolerance: Optional[Tolerance] = None,
) -> GateReport:
    """Check one artefact of the bundle at `path`, on the execution that it was calibrated for.

    Args:
        path: the bundle's folder; it is opened anew, with every check that the SDK makes.
        artefact: its name, as in "fp32".
        calibration, verification: reference packs of the workspace.
        reference: the PyTorch surrogate.
        scored: the scores that the offset was calibrated on, if they are at hand: replayed probits must equal them.
        tolerance: differences from PyTorch that are allowed; by default those of the precision.

    Returns:
        A report that is false as soon as one check failed. A check that cannot be made is a failed check.

    Raises:
        ExportError: reference packs of other splits.
    """
    splits = (calibration.split, verification.split)
    if splits != ("calibration", "verification"):
        raise ExportError(
            f"gate: got references of splits {splits}, expected ('calibration', 'verification')"
        )
    start = time.monotonic()
    try:
        bundle, runtime = _open(path, artefact)
    except RriseError as error:
        return GateReport(artefact, (Check("opens as a user opens it", False, str(error), "a sound bundle"),))
    with closing(runtime):
        record = bundle.calibrations[artefact]
        found = _Timed(start)
        found.add(Check("opens as a user opens it", True, "sound", "a sound bundle"))
        found.add(_check_graph_file(bundle, artefact))
        found.add(_check_execution(record, runtime))
        found.add(_check_offset(record, runtime))
        noise = bundle.manifest.replay_noise()
        answers = {pack.split: _answers(runtime, pack, noise) for pack in (calibration, verification)}
        found.add(_check_head(record, answers))
        found.add(*_check_replay(record, answers["calibration"], calibration, runtime, scored))
        found.add(_check_coverage(record, answers["verification"], verification, runtime))
        found.add(_check_worth(answers["verification"]))
        comparison = _compare(record, answers, (calibration, verification), reference)
        if noise is None:
            found.add(_check_certifier(path, artefact, verification, answers["verification"]))
        else:
            found.add(check_guarded_certifier(path, artefact, verification))
        allowed = tolerance or TOLERANCES.get(artefact, TOLERANCES["fp32"])
        found.add(*_check_comparison(comparison, allowed, record.head.sigma))
        return GateReport(artefact, found.checks, comparison, comparison.needed(record.head.sigma))


class _Timed:
    """Checks with the time that each took: since the one before was added, shared among those that are added together."""

    def __init__(self, start: float) -> None:
        self.checks: Tuple[Check, ...] = ()
        self._last = start

    def add(self, *checks: Check) -> None:
        now = time.monotonic()
        each = (now - self._last) / max(len(checks), 1)
        self.checks += tuple(replace(check, seconds=each) for check in checks)
        self._last = now


def _open(path: Path, artefact: str) -> Tuple[Bundle, Runtime]:
    """Open the bundle with the SDK's own checks, and load the artefact on the execution of its record."""
    bundle = Bundle.open(path)
    if artefact not in bundle.calibrations:
        raise BundleError(
            f"artefact {artefact}: got no calibration record, expected one; export the bundle again"
        )
    runtime = OnnxRuntime.load(bundle.model(artefact))
    bundle.check_graph(artefact, runtime.graph)
    bundle.replay_noise()
    if not matches_probe(bundle, artefact, runtime):
        raise BundleError(
            "probe: the recorded answers are not reproduced bit for bit on the machine that exported them"
        )
    return bundle, runtime


def _check_graph_file(bundle: Bundle, artefact: str) -> Check:
    from rrise.export.lowering.lower import check_model

    limits = f"opset {OPSET}, IR version <= {MAX_IR_VERSION}, strict shapes"
    try:
        check_model(_parse(bundle.model(artefact)))
    except RriseError as error:
        return Check("valid ONNX within the contract", False, str(error), limits)
    return Check("valid ONNX within the contract", True, "valid", limits)


def _parse(data: bytes) -> "onnx.ModelProto":
    import onnx

    return onnx.load_model_from_string(data)


def _check_execution(record: Calibration, runtime: Runtime) -> Check:
    differences = runtime.execution.differences(record.execution)
    return Check(
        "calibrated on this execution", not differences, "; ".join(differences) or "the same", "no difference"
    )


def _check_offset(record: Calibration, runtime: Runtime) -> Check:
    same = same_float32(runtime.graph.offset, record.head.offset) and same_float32(
        [runtime.graph.sigma], [record.head.sigma]
    )
    got = f"offset {list(runtime.graph.offset)}, sigma {runtime.graph.sigma}"
    return Check(
        "constants of the graph", same, got, f"offset {list(record.head.offset)}, sigma {record.head.sigma}"
    )


def _answers(runtime: Runtime, references: References, noise: Optional[ReplayNoise]) -> Answers:
    outputs = run_all(runtime, references.frames, noise=noise)
    return Answers(outputs.label, outputs.radius, outputs.probit, outputs.difficulty)


def _check_head(record: Calibration, answers: Mapping[str, Answers]) -> Check:
    """The graph's radii against the numpy head on the graph's own probits: bit for bit."""
    differing = 0
    for mine in answers.values():
        wanted = record.head.radius(mine.probit, mine.label, mine.difficulty)
        differing += int((mine.radius.view(np.uint32) != wanted.view(np.uint32)).sum())
    return Check(
        "radius is map and offset of the probit",
        differing == 0,
        f"{differing} frames differ",
        "none, bit for bit",
    )


def _check_replay(
    record: Calibration, mine: Answers, references: References, runtime: Runtime, scored: Optional[Scores]
) -> List[Check]:
    """The rank check on the final file (calibration/README.md, "Exactness"), and its probits against those calibrated on."""
    checks = []
    if scored is not None:
        same = np.array_equal(mine.probit, scored.probit) and np.array_equal(mine.label, scored.label)
        changed = int((mine.probit != scored.probit).sum())
        checks.append(
            Check("replay of the calibration frames", same, f"{changed} probits changed", "none, bit for bit")
        )
    try:
        scores = _scores(references, mine, runtime)
        rank = check_rank(scores, mine.radius, record)
    except RriseError as error:
        return [*checks, Check("rank of the offset", False, str(error), "the frames of the record")]
    limit = f"at most {rank.allowed}"
    return [
        *checks,
        Check("rank of the offset", bool(rank), f"{rank.exceeding} frames above their reference", limit),
    ]


def _scores(references: References, answers: Answers, runtime: Runtime) -> Scores:
    found = references.scores(answers.label, answers.probit, answers.difficulty, runtime.execution)
    # Neither side alone: counts do not show that beta was split over stages or looks, and a stored radius may be too large.
    return replace(found, reference=proved_reference(found, references.beta))


def _check_worth(mine: Answers) -> Check:
    """A bundle that certifies nothing keeps every promise, and is of no use to anybody."""
    issued = int((mine.radius > 0).sum())
    return Check(ISSUES, issued > 0, f"{issued} of {len(mine.radius)} verification frames", "at least one")


def _check_coverage(record: Calibration, mine: Answers, references: References, runtime: Runtime) -> Check:
    """What the guarantee counts on the verification split, above its reference, against chance at miscoverage alpha."""
    name = "coverage of the verification frames"
    try:
        scores = _scores(references, mine, runtime)
    except RriseError as error:
        return Check(name, False, str(error), "scores of the verification frames")
    trials = _trials(record, scores, mine.radius)
    got = ", ".join(f"{exceeding} of {units}" for exceeding, units in trials)
    allowed = [
        most_by_chance(units, float(record.guarantee.alpha), COVERAGE_FALSE_ALARM / len(trials))
        for _, units in trials
    ]
    passed = all(exceeding <= most for (exceeding, _), most in zip(trials, allowed))
    return Check(name, passed, f"{got} above the reference", f"at most {', '.join(map(str, allowed))}")


def _trials(record: Calibration, scores: Scores, radius: np.ndarray) -> List[Tuple[int, int]]:
    """(exceeding, independent units) of what the kind of guarantee counts: frames, issued frames, classes or clips."""
    above = radius > reference_for(scores, record.guarantee)
    return record.guarantee.rules.trials(
        above,
        clip=scores.clip,
        independent=independent_frames(scores, record.seed),
        issued=radius > 0,
        label=scores.label,
        classes=len(scores.class_names),
    )


def most_by_chance(units: int, rate: float, false_alarm: float) -> int:
    """The most exceedances of `units` that a true rate of `rate` explains, but for a chance of `false_alarm`."""
    from scipy.stats import binom

    return int(binom.isf(false_alarm, units, rate)) if units else 0


def _check_certifier(path: Path, artefact: str, references: References, mine: Answers) -> Check:
    """A user's own calls: load, certify, and get the label and radius that were calibrated."""
    from rrise.edge_sdk.certifier import Certifier

    name, limit = "a Certifier issues these radii", "state calibrated, equal answers"
    try:
        with Certifier.load(path, artefact=artefact) as certifier:
            state = certifier.state
            certificates = certifier.certify_batch(list(references.frames[:CERTIFIED_FRAMES]))
    except RriseError as error:
        return Check(name, False, str(error), limit)
    wrong = sum(
        (certificate.label, np.float32(certificate.radius)) != (label, radius)
        for certificate, label, radius in zip(certificates, mine.label, mine.radius)
    )
    passed = wrong == 0 and state.state is State.CALIBRATED
    return Check(name, passed, f"state {state.state}, {wrong} of {len(certificates)} answers differ", limit)


def _compare(
    record: Calibration, answers: Mapping[str, Answers], packs: Tuple[References, ...], reference: Reference
) -> Comparison:
    mine, theirs, head = [], [], record.head
    for pack in packs:
        label, probit, difficulty = reference(pack.frames)
        theirs.append(graded(Answers.of(label, probit, head, difficulty), head))
        mine.append(graded(answers[pack.split], head))
    return compare_outputs(_joined(mine), _joined(theirs), head.sigma)


def _joined(parts: List[Answers]) -> Answers:
    label, radius, probit = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("label", "radius", "probit")
    )
    return Answers(label, radius, probit)


def _check_comparison(found: Comparison, allowed: Tolerance, sigma: float) -> List[Check]:
    flips, abstains = int(allowed.label_flips * found.frames), int(allowed.abstain_flips * found.frames)
    increase = allowed.radius_increase * sigma
    return [
        Check("answers are finite", found.not_finite == 0, f"{found.not_finite} NaN or infinite", "none"),
        Check(
            LABEL_FLIPS,
            found.label_flips <= flips,
            str(found.label_flips),
            f"at most {flips}",
        ),
        Check(
            ABSTAIN_FLIPS,
            found.abstain_flips <= abstains,
            str(found.abstain_flips),
            f"at most {abstains}",
        ),
        Check(
            PROBIT_CHANGE,
            found.probit <= allowed.probit,
            f"{found.probit:.3g}",
            f"at most {allowed.probit:.3g}",
        ),
        Check(
            RADIUS_INCREASE,
            found.radius_increase <= increase,
            f"{found.radius_increase:.3g}",
            f"at most {increase:.3g}",
        ),
    ]
