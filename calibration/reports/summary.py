"""The numbers of a report on one calibrated execution, from tables alone: accuracy, coverage, audit, cost, latency."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import AmongIssued
from rrise.calibration.promise.offsets import independent_frames, reference_for
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper
from rrise.calibration.statistics.shares import Difference
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.cost import CostLedger, break_even
from rrise.calibration.tables.evaluation import (
    Judged,
    audit_ceiling,
    audit_reach_note,
    issued_share,
    judge,
    label_agreement,
    probit_rmse,
)
from rrise.calibration.tables.latency import LatencyTable, latency_numbers
from rrise.calibration.tables.scores import Scores

CERTIFY_ALPHA = 0.001
"""Error level of each Monte Carlo certificate that the surrogate is compared with, as in Cohen et al. 2019."""

OURS = "rrise"
"""Name of the surrogate's row; the others are "monte-carlo N"."""

RIVAL_BUDGET = 10_000
"""Monte Carlo with fewer draws is no rival to be ahead of: it saturates below the radii that a surrogate issues."""

NOT_OFFLINE = ("base", "targets-selection", "targets-certify", "targets-audit")
"""Stages left out of the break-even, by the start of their names: the base classifier, which Monte Carlo at run time
needs too, and what only this report needs."""


@dataclass(frozen=True)
class ReportTables:
    """Everything that a report reads.

    Attributes:
        calibration: record of the execution that is reported.
        scores: its tables of split "calibration", "verification" and, where a comparison was drawn, "test"; the counts of
            the test split are the audit's own draws.
        certify: Monte Carlo on the same test frames, or None without a comparison.
        cost: ledger of the whole workspace.
        frame_rate: frames a second, for expected wrong certificates per hour.
        latency: or None where nothing was measured.
    """

    calibration: Calibration
    scores: Mapping[str, Scores]
    certify: Optional[CertifyCounts]
    cost: CostLedger
    frame_rate: float
    latency: Optional[LatencyTable] = None

    def __post_init__(self) -> None:
        needed = ("calibration", "verification", *(("test",) if self.certify is not None else ()))
        for split in (*needed, *(set(self.scores) & {"test"})):
            if split not in self.scores:
                raise CalibrationError(
                    f"report: no scores of the {split} split; score it with this execution first"
                )
            if not self.scores[split].execution.same_as(self.calibration.execution):
                differences = "; ".join(self.scores[split].execution.differences(self.calibration.execution))
                raise CalibrationError(
                    f"report: the {split} scores come from another execution ({differences})"
                )
        if self.certify is not None and self.judged.digest.tolist() != self.certify.digest.tolist():
            raise CalibrationError(
                "report: the certify table has other frames than the test scores; run certify again"
            )

    @property
    def judged(self) -> Scores:
        """The frames that certified accuracy is about: test, by the audit's draws; else verification, by its references'."""
        return self.scores.get("test", self.scores["verification"])

    @property
    def budgets(self) -> Tuple[int, ...]:
        """The Monte Carlo budgets that the surrogate is compared with; none without a comparison."""
        return () if self.certify is None else self.certify.budgets

    def radius(self, split: str) -> np.ndarray:
        """Certified radius of every frame of a split, float32 [n]."""
        table = self.scores[split]
        return self.calibration.head.radius(table.probit, table.label, table.difficulty)


def report_radii(sigma: float) -> Tuple[float, ...]:
    """Radii that a report shows: 0 and multiples of sigma / 2 up to 3 sigma."""
    return tuple(round(0.5 * step * sigma, 6) for step in range(7))


def summarise(tables: ReportTables) -> Dict[str, Any]:
    """All numbers of the report as a JSON value; the same that `rrise-calibrate report --json` prints.

    "worth" and "behind" are the numbers to read: net of wrong certificates, with intervals, and paired with Monte Carlo
    on the same frames. "certified_accuracy" is gross.
    """
    test = tables.judged
    radii = report_radii(test.sigma)
    judged = judged_rows(tables)
    draws = int(test.num_samples.min())
    offline = sum(entry.total for entry in tables.cost.entries if not entry.stage.startswith(NOT_OFFLINE))
    return {
        "guarantee": tables.calibration.guarantee.to_json(),
        "sentence": tables.calibration.guarantee.sentence(),
        "limits": tables.calibration.guarantee.limits(),
        "conditions": list(tables.calibration.guarantee.conditions()),
        "message": tables.calibration.message(),
        "attempt": tables.calibration.attempt,
        "attempt_text": tables.calibration.attempt_text(),
        "judged_on": test.split,
        "sigma": test.sigma,
        "base_digest": test.base_digest,
        "execution": tables.calibration.execution.to_json(),
        "wrong_per_hour": tables.calibration.guarantee.wrong_per_hour(tables.frame_rate),
        "frame_rate": tables.frame_rate,
        "frames_for_ten_times_less": tables.calibration.guarantee.ten_times_smaller()
        .spent(tables.calibration.attempt)
        .frames_needed(),
        "radii": list(radii),
        "certified_accuracy": {name: _floats(row.gross(radii).mean(axis=1)) for name, row in judged.items()},
        "worth": {name: [asdict(worth) for worth in row.worth(radii)] for name, row in judged.items()},
        "behind": behind(tables, judged, radii),
        "wrong_among_issued": asdict(wrong_among_issued(tables)),
        "issued": {name: _floats(issued_share(row.radius, radii)) for name, row in judged.items()},
        "audit": asdict(judged[OURS].verdict()),
        "audit_samples": draws,
        "audit_ceiling": audit_ceiling(draws, test.sigma),
        "audit_note": audit_reach_note(radii, draws, test.sigma, _extra(tables)),
        "coverage": [asdict(row) for row in coverage_rows(tables)],
        "label_agreement": label_agreement(test),
        "probit_rmse": probit_rmse(test),
        "offline_passes": offline,
        "break_even": {
            str(budget): break_even(offline, budget) for budget in tables.budgets or (RIVAL_BUDGET,)
        },
        "latency": None
        if tables.latency is None
        else latency_numbers(tables.latency, (tables.budgets or (RIVAL_BUDGET,))[-1]),
    }


def judged_rows(tables: ReportTables) -> Dict[str, Judged]:
    """The surrogate's certificates, then Monte Carlo's at each budget, all judged by the same audit draws.

    Monte Carlo's certificates have a promise of their own each; they count as long as the audit does not refute them.
    """
    test = tables.judged
    rows = {OURS: judge(test, tables.radius(test.split), extra=_extra(tables))}
    for budget in tables.budgets:
        assert tables.certify is not None
        found = tables.certify.at(budget, CERTIFY_ALPHA)
        rows[f"monte-carlo {budget}"] = judge(test, found.radius, label=found.label, per_input=True)
    return rows


def rivals(budgets: Sequence[int]) -> Tuple[int, ...]:
    """The Monte Carlo budgets that differences are shown against: 10,000 and above, or else the largest there is."""
    return tuple(budget for budget in budgets if budget >= RIVAL_BUDGET) or tuple(budgets[-1:])


def behind(
    tables: ReportTables, judged: Mapping[str, Judged], radii: Sequence[float]
) -> Dict[str, List[Dict[str, float]]]:
    """Points of net certified accuracy by which the surrogate is behind Monte Carlo, paired on the same frames."""
    known = judged[OURS].target >= 0
    mine = judged[OURS].net(radii)[:, known]
    found = {}
    for budget in rivals(tables.budgets):
        name = f"monte-carlo {budget}"
        theirs = judged[name].net(radii)[:, known]
        found[name] = [asdict(Difference.of(their, my)) for their, my in zip(theirs, mine)]
    return found


def wrong_among_issued(tables: ReportTables) -> AmongIssued:
    """What the promise permits among issued certificates, by the share that the judged frames, one of each clip, receive."""
    table = tables.judged
    radius = tables.radius(table.split)[independent_frames(table, tables.calibration.seed)]
    return tables.calibration.guarantee.among_issued(int((radius > 0).sum()), len(radius))


def _extra(tables: ReportTables) -> float:
    """What a certificate claims beyond its radius: rho of the guarded tier, around the clean frame."""
    guard = tables.calibration.guarantee.guard
    return 0.0 if guard is None else guard.rho


@dataclass(frozen=True)
class CoverageRow:
    """How many units of a split have a radius above their reference, with a 95 % Clopper-Pearson interval.

    unit: what the guarantee speaks of and `frames` counts: frames (one of each clip), certificates or clips.
    """

    split: str
    exceeding: int
    frames: int
    share: float
    lower: float
    upper: float
    unit: str = "frames"


def coverage_rows(tables: ReportTables) -> List[CoverageRow]:
    """Coverage of the calibration split (by construction) and of the verification split (an independent check)."""
    rows = []
    unit = tables.calibration.guarantee.rules.judged
    for split in ("calibration", "verification"):
        above = _above(tables, split)
        exceeding, count = int(above.sum()), len(above)
        lower = float(clopper_pearson_lower(exceeding, count, 0.025)) if count else 0.0
        upper = float(clopper_pearson_upper(exceeding, count, 0.025)) if count else 1.0
        rows.append(CoverageRow(split, exceeding, count, exceeding / max(count, 1), lower, upper, unit))
    return rows


def _above(tables: ReportTables, split: str) -> np.ndarray:
    """Whether the radius exceeds the reference, bool over independent units: what alpha is the allowed share of.

    Frames of one clip are not independent, and a share of all frames would flatter a promise about issued ones or clips.
    """
    table, record = tables.scores[split], tables.calibration
    radius = tables.radius(split)
    above = radius > reference_for(table, record.guarantee)
    independent = independent_frames(table, record.seed)
    return record.guarantee.rules.counted(above, clip=table.clip, independent=independent, issued=radius > 0)


def _floats(values: np.ndarray) -> List[float]:
    return [float(value) for value in values]
