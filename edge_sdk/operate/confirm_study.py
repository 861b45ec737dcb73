"""Which share of certificates `confirm` proves within a deadline, measured on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from rrise.edge_sdk.certificate import Certificate
from rrise.edge_sdk.certifier import Certifier
from rrise.edge_sdk.confirming.confirmation import Outcome, check_deadline, check_level
from rrise.edge_sdk.confirming.memory import Memory
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.operate.bench import describe_machine

DEADLINES = (0.005, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class DeadlineRow:
    """One deadline: certificates asked about, what became of them, and the median of evaluations and seconds each."""

    deadline: float
    asked: int
    confirmed: int
    open: int
    refuted: int
    samples: float
    seconds: float
    latest: float
    """Seconds of the longest call: what a batch that was begun in time took beyond."""


@dataclass(frozen=True)
class ConfirmStudy:
    """Rows by deadline. frames: that were certified first; alpha: level per input; batch: evaluations at once.

    batch_passes: surrogate passes in whose time one batch is evaluated, in the same run: the batch's price as a ratio.
    """

    rows: Tuple[DeadlineRow, ...]
    frames: int
    alpha: float
    batch: int
    batch_passes: float
    engine: str
    machine: str
    time: str = "real"

    def to_json(self) -> Dict[str, Any]:
        return asdict(self)

    def text_rows(self) -> List[Tuple[str, str]]:
        """Name and value of each line of a summary."""
        lines = [
            ("machine", f"{self.machine}, deadlines in {self.time} time"),
            (
                "engine",
                f"{self.engine}, batches of {self.batch}, each the time of {self.batch_passes:.1f} certificates",
            ),
            (
                "certificates",
                f"{self.rows[0].asked if self.rows else 0} of {self.frames} frames, level {self.alpha:g}",
            ),
        ]
        for row in self.rows:
            share = row.confirmed / max(row.asked, 1)
            lines.append(
                (
                    f"{row.deadline * 1e3:g} ms",
                    f"{100 * share:.1f} % confirmed, {row.open} open, {row.refuted} refuted;"
                    f" {row.samples:,.0f} evaluations and {row.seconds * 1e3:.2g} ms at the median,"
                    f" longest {row.latest * 1e3:.2g} ms",
                )
            )
        return lines


def confirm_study(
    certifier: Certifier,
    frames: np.ndarray,
    deadlines: Sequence[float] = DEADLINES,
    *,
    alpha: float = 0.001,
    batch_size: Optional[int] = None,
    processor_time: bool = False,
    advance: Optional[Callable[[int], None]] = None,
) -> ConfirmStudy:
    """Ask about every issued certificate, once for each deadline, deadlines in turn for each frame.

    Each deadline has a test of its own for each frame, so the certificates of a study are not to be acted on.

    Args:
        certifier: a clone, whose drift monitor these frames do not concern.
        frames: [n, ...] as the bundle takes them.
        processor_time: count deadlines in this process's processor seconds: on a machine that others use too, about what one
            that does nothing else would do.

    Raises:
        BundleError: the bundle does not carry its base classifier. EdgeError: no frames or no deadline.
    """
    if not len(frames) or not deadlines:
        raise EdgeError("confirm study: got no frames or no deadlines, expected some of each")
    for deadline in deadlines:
        check_deadline(deadline)
    check_level(alpha)
    clock = process_time if processor_time else perf_counter
    engine = certifier.load_base(batch_size=batch_size, clock=clock)
    memories, kept = {deadline: Memory() for deadline in deadlines}, certifier._tested
    found: Dict[float, List[Certificate]] = {deadline: [] for deadline in deadlines}
    passes = []
    try:
        for frame in frames:
            start = clock()
            certificate = certifier.certify(frame)
            passes.append(clock() - start)
            if certificate:
                for deadline in deadlines:
                    certifier._tested = memories[deadline]
                    found[deadline].append(certifier.confirm(frame, certificate, deadline, alpha=alpha))
            if advance is not None:
                advance(1)
    finally:
        certifier._tested = kept
    confirmer = certifier._loaded.course.confirmer
    assert confirmer is not None
    ratio = confirmer.batch_seconds / float(np.median(passes))
    rows = tuple(_row(deadline, found[deadline]) for deadline in deadlines)
    return ConfirmStudy(
        rows,
        len(frames),
        alpha,
        confirmer.batch_size,
        ratio,
        engine,
        describe_machine(),
        _time(processor_time),
    )


def _time(processor_time: bool) -> str:
    return "processor" if processor_time else "real"


def _row(deadline: float, certificates: Sequence[Certificate]) -> DeadlineRow:
    tests = [one.confirmation for one in certificates if one.confirmation is not None]
    counts = {outcome: sum(test.outcome is outcome for test in tests) for outcome in Outcome}
    samples, seconds = [test.samples for test in tests], [test.seconds for test in tests]
    return DeadlineRow(
        deadline,
        len(tests),
        counts[Outcome.CONFIRMED],
        counts[Outcome.OPEN],
        counts[Outcome.REFUTED],
        float(np.median(samples)) if tests else 0.0,
        float(np.median(seconds)) if tests else 0.0,
        max(seconds, default=0.0),
    )
