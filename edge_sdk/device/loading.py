"""From a bundle to a checked runtime: probe frames, execution state, warm-up."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.storage.digests import PathLike
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.device.device_calibration import load_device_calibration
from rrise.edge_sdk.device.replayed import replay_sentence
from rrise.edge_sdk.device.verification_record import load_record
from rrise.edge_sdk.errors import BundleError, RuntimeFault, RuntimeUnavailable
from rrise.edge_sdk.runtime.base import Outputs, Runtime
from rrise.edge_sdk.runtime.select import RuntimeCandidate, candidates

HEAD_TOLERANCE = 1e-3
"""Of the probit, and in units of sigma of the radius: the head is computed in float32 everywhere."""
PROBIT_TOLERANCE = 0.05
"""A probe answer that is further from the recorded one than this is another function, not another rounding."""


class State(str, Enum):
    """What is known about an execution (export/README.md, "Which execution a certificate holds for")."""

    CALIBRATED = "calibrated"
    VERIFIED = "verified"
    UNVERIFIED = "unverified"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ExecutionState:
    """State of a loaded execution, why, and what is subtracted from every radius because of it.

    Attributes:
        calibrated: whether the artefact has a calibration record at all; without one nothing is ever issued.
        margin: radius units, >= 0; 0 except on executions whose rounding was measured on this device.
    """

    state: State
    reason: str
    margin: float
    calibrated: bool


@dataclass(frozen=True)
class ChosenExecution:
    """A checked runtime, its state, and why this one."""

    runtime: Runtime
    state: ExecutionState
    why: str


@contextmanager
def readable(path: PathLike) -> Iterator[None]:
    """What the system says about files, as a `BundleError`: whoever loads a bundle catches the package's errors."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error}); make every file in it readable for this user"
        ) from error


def choose_execution(bundle: Bundle, artefact: str, options: Sequence[RuntimeCandidate]) -> ChosenExecution:
    """Load the first candidate whose execution was calibrated or verified here; failing that, the last that loads.

    Raises:
        RuntimeUnavailable: none can be loaded; says why not, for each.
        BundleError: a graph contradicts the bundle.
    """
    passed: List[str] = []
    fallback: Optional[ChosenExecution] = None
    for candidate, runtime in _loaded(options, passed):
        try:
            state = _checked_state(bundle, artefact, runtime)
        except BaseException:
            runtime.close()
            raise
        if fallback is not None:
            fallback.runtime.close()
        name = f"{candidate.name} ({runtime.note})" if runtime.note else candidate.name
        fallback = ChosenExecution(runtime, state, name)
        if state.state is not State.UNVERIFIED:
            break
        passed.append(f"{candidate.name} is unverified")
    if fallback is None:
        raise RuntimeUnavailable("; ".join(passed))
    return ChosenExecution(fallback.runtime, fallback.state, "; ".join([fallback.why, *passed]))


def _loaded(
    options: Sequence[RuntimeCandidate], passed: List[str]
) -> Iterator[Tuple[RuntimeCandidate, Runtime]]:
    """The candidates that load, one after the other, each with its runtime; why not, for the others, goes to `passed`."""
    for candidate in options:
        try:
            runtime = candidate.load()
        except (RuntimeUnavailable, RuntimeFault) as error:
            passed.append(f"not {candidate.name}: {error}")
            continue
        yield candidate, runtime


def load_runtime(
    bundle: Bundle, artefact: str, *, runtime: str = "auto", provider: Optional[str] = None, threads: int = 1
) -> Runtime:
    """The runtime that `Certifier.load` takes with these options, for verification and calibration to judge.

    Raises:
        RuntimeUnavailable: none can be loaded; says why not, for each.
    """
    passed: List[str] = []
    taken: Optional[Runtime] = None
    options = candidates(bundle, artefact, runtime=runtime, provider=provider, threads=threads)
    for _, loaded in _loaded(options, passed):
        if taken is not None:
            taken.close()
        taken = loaded
        try:
            if _checked_state(bundle, artefact, taken).state is not State.UNVERIFIED:
                break
        except BundleError:  # a certifier stops here, too, and says so; the caller is there to find out why
            break
    if taken is None:
        raise RuntimeUnavailable("; ".join(passed))
    return taken


def _checked_state(bundle: Bundle, artefact: str, runtime: Runtime) -> ExecutionState:
    bundle.check_graph(artefact, runtime.graph)
    return execution_state(bundle, artefact, runtime, matches_probe(bundle, artefact, runtime))


def matches_probe(bundle: Bundle, artefact: str, runtime: Runtime) -> bool:
    """Compare the probe frames' answers with the recorded ones.

    Returns:
        Whether they agree bit for bit. An execution with the recorded name that does not is another one in fact,
        for instance because the processor has another instruction set.

    Raises:
        BundleError: no recorded answer, or one so different that this cannot be the same function.
    """
    expected = bundle.probe.expected.get(artefact)
    if expected is None:
        raise BundleError(f"probe: no expected answers for artefact {artefact}; export the bundle again")
    got = bundle.probe.answers(runtime)
    certified = expected.radius > 0
    flipped = int((got.label != expected.label)[certified].sum())
    apart = float(np.max(np.abs(got.probit.astype(np.float64) - expected.probit)))
    if flipped or not apart <= PROBIT_TOLERANCE:
        raise BundleError(
            f"probe: {flipped} certified labels flipped and the probit is up to {apart:.3g} from the recorded one, expected"
            f" at most {PROBIT_TOLERANCE}; this runtime does not compute the exported function: try another provider,"
            " and report it with the output of `rrise-edge doctor`"
        )
    _check_radii(bundle, artefact, got)
    pairs = ((got.label, expected.label), (got.radius, expected.radius), (got.probit, expected.probit))
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def _check_radii(bundle: Bundle, artefact: str, got: Outputs) -> None:
    """A runtime may compute the probit well and the head behind it badly: each radius must be what the record makes of it.

    Raises:
        BundleError: a radius is larger than that of a probit that is `HEAD_TOLERANCE` larger, or not a number.
    """
    record = bundle.calibrations.get(artefact)
    if record is None:
        return
    above = (got.probit + np.float32(HEAD_TOLERANCE)).astype(np.float32)
    highest = record.head.radius(above, got.label, got.difficulty).astype(np.float64)
    wrong = int((~(got.radius <= highest + HEAD_TOLERANCE * bundle.manifest.sigma)).sum())
    if wrong:
        raise BundleError(
            f"probe: {wrong} of {len(got.radius)} radii are larger than the calibration record makes of their probit; this"
            " runtime does not compute the exported head: try another provider, and report it with the output of"
            " `rrise-edge doctor`"
        )


def execution_state(bundle: Bundle, artefact: str, runtime: Runtime, probe_exact: bool) -> ExecutionState:
    """Whether this execution was calibrated, verified on this device, or neither, and why."""
    record = bundle.calibrations.get(artefact)
    if record is None:
        return ExecutionState(State.UNVERIFIED, f"artefact {artefact} was never calibrated", 0.0, False)
    execution = runtime.execution
    here = load_device_calibration(bundle, execution)
    if here is not None:
        # Also for the bundle's own execution: what a device found to be needed is never forgotten.
        if here.probe != bundle.probe.fingerprint(runtime):
            reason = "calibrated on another processor than this; run `rrise-edge recalibrate` here"
            return ExecutionState(State.UNVERIFIED, reason, 0.0, True)
        reason = f"calibrated on this device with {here.frames} frames, margin {here.margin:.3g}"
        return ExecutionState(State.CALIBRATED, reason, here.margin, True)
    if execution.same_as(record.execution):
        if probe_exact:
            return ExecutionState(State.CALIBRATED, "the bundle was calibrated on this execution", 0.0, True)
        difference = "the probe frames differ in the last bits (another processor type)"
    else:
        difference = "; ".join(execution.differences(record.execution))
    verified = load_record(bundle, execution)
    if verified is not None and verified.margin and record.guarantee.rules.among_issued:
        difference += (
            "; a margin changes which frames receive a certificate, so a selective guarantee has none"
        )
    elif verified is not None and verified.probe == bundle.probe.fingerprint(runtime):
        reason = (
            f"verified on this device with {verified.frames} frames, margin {verified.margin:.3g}."
            f" {replay_sentence(record.guarantee, verified.independent)}"
        )
        return ExecutionState(State.VERIFIED, reason, verified.margin, True)
    mend = f"run `rrise-edge verify {bundle.path} --references PACK` on this device"
    return ExecutionState(State.UNVERIFIED, f"not the calibrated execution: {difference}; {mend}", 0.0, True)


def warm_up(runtime: Runtime, *, limit_seconds: float = 0.5, limit_runs: int = 200) -> int:
    """Run black frames until the latency is stable (two successive medians of five within a tenth), and say how many."""
    signature = runtime.graph.signature
    frames = np.zeros((signature.batch_size, *signature.frame_shape), signature.dtype)
    spent: List[float] = []
    deadline = time.perf_counter() + limit_seconds
    while len(spent) < limit_runs and (len(spent) < 10 or time.perf_counter() < deadline):
        start = time.perf_counter()
        try:
            runtime.answer(frames)
        except Exception as error:  # a runtime's exceptions have no common base
            raise RuntimeFault(f"the runtime failed on a black frame: {error}") from error
        spent.append(time.perf_counter() - start)
        if len(spent) >= 10 and abs(median(spent[-5:]) - median(spent[-10:-5])) <= 0.1 * median(spent[-5:]):
            break
    return len(spent)
