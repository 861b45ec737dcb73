"""The numbers of a report on one calibrated execution, from tables alone: accuracy, coverage, audit, cost, latency."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.offsets import one_frame_per_clip, reference_for
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.cost import CostLedger, break_even
from rrise.calibration.tables.evaluation import (
    audit,
    certified_accuracy,
    issued_share,
    label_agreement,
    probit_rmse,
)
from rrise.calibration.tables.latency import Latency, latency_numbers
from rrise.calibration.tables.scores import Scores

CERTIFY_ALPHA = 0.001
"""Error level of each Monte Carlo certificate that the surrogate is compared with, as in Cohen et al. 2019."""

NOT_OFFLINE = ("base", "targets-selection", "targets-certify", "targets-audit")
"""Stages left out of the break-even, by the start of their names: the base classifier, which Monte Carlo at run time
needs too, and what only this report needs."""


@dataclass(frozen=True)
class ReportTables:
    """Everything that a report reads.

    Attributes:
        calibration: record of the execution that is reported.
        scores: its tables of split "calibration", "verification" and "test"; the counts of the test split are the
            audit's own draws.
        certify: Monte Carlo on the same test frames.
        cost: ledger of the whole workspace.
        frame_rate: frames a second, for expected wrong certificates per hour.
        latency: or None where nothing was measured.
    """

    calibration: Calibration
    scores: Mapping[str, Scores]
    certify: CertifyCounts
    cost: CostLedger
    frame_rate: float
    latency: Optional[Latency] = None

    def __post_init__(self) -> None:
        for split in ("calibration", "verification", "test"):
            if split not in self.scores:
                raise CalibrationError(
                    f"report: no scores of the {split} split; score it with this execution first"
                )
            if not self.scores[split].execution.same_as(self.calibration.execution):
                differences = "; ".join(self.scores[split].execution.differences(self.calibration.execution))
                raise CalibrationError(
                    f"report: the {split} scores come from another execution ({differences})"
                )
        if self.scores["test"].digest.tolist() != self.certify.digest.tolist():
            raise CalibrationError(
                "report: the certify table has other frames than the test scores; run certify again"
            )

    def radius(self, split: str) -> np.ndarray:
        """Certified radius of every frame of a split, float32 [n]."""
        table = self.scores[split]
        return self.calibration.head.radius(table.probit, table.label, table.difficulty)


def default_radii(sigma: float) -> Tuple[float, ...]:
    """Radii that a report shows: 0 and multiples of sigma / 2 up to 3 sigma."""
    return tuple(round(0.5 * step * sigma, 6) for step in range(7))


def summarise(tables: ReportTables) -> Dict[str, Any]:
    """All numbers of the report as a JSON value; the same that `rrise-calibrate report --json` prints."""
    test, radius = tables.scores["test"], tables.radius("test")
    radii = default_radii(test.sigma)
    monte_carlo = {str(budget): tables.certify.at(budget, CERTIFY_ALPHA) for budget in tables.certify.budgets}
    offline = sum(entry.total for entry in tables.cost.entries if not entry.stage.startswith(NOT_OFFLINE))
    return {
        "guarantee": tables.calibration.guarantee.to_json(),
        "sentence": tables.calibration.guarantee.sentence(),
        "limits": tables.calibration.guarantee.limits(),
        "conditions": list(tables.calibration.guarantee.conditions()),
        "message": tables.calibration.message(),
        "attempt": tables.calibration.attempt,
        "sigma": test.sigma,
        "base_digest": test.base_digest,
        "execution": tables.calibration.execution.to_json(),
        "wrong_per_hour": tables.calibration.guarantee.wrong_per_hour(tables.frame_rate),
        "frame_rate": tables.frame_rate,
        "frames_for_ten_times_less": tables.calibration.guarantee.ten_times_smaller().frames_needed(),
        "radii": list(radii),
        "certified_accuracy": {
            "rrise": _floats(certified_accuracy(test.label, radius, test.target, radii)),
            **{
                f"monte-carlo {name}": _floats(certified_accuracy(row.label, row.radius, test.target, radii))
                for name, row in monte_carlo.items()
            },
        },
        "issued": {
            "rrise": _floats(issued_share(radius, radii)),
            **{
                f"monte-carlo {name}": _floats(issued_share(row.radius, radii))
                for name, row in monte_carlo.items()
            },
        },
        "audit": asdict(audit(test, radius)),
        "audit_samples": int(test.num_samples.min()),
        "coverage": [asdict(row) for row in coverage_rows(tables)],
        "label_agreement": label_agreement(test),
        "probit_rmse": probit_rmse(test),
        "offline_passes": offline,
        "break_even": {str(budget): break_even(offline, budget) for budget in tables.certify.budgets},
        "latency": None
        if tables.latency is None
        else latency_numbers(tables.latency, tables.certify.budgets[-1]),
    }


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
    unit = {"selective": "certificates", "whole-clip": "clips"}.get(
        tables.calibration.guarantee.kind, "frames"
    )
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
    if record.guarantee.kind == "whole-clip":
        clips, place = np.unique(table.clip, return_inverse=True)
        return np.bincount(place[above], minlength=len(clips)) > 0
    counted = np.isin(table.digest, one_frame_per_clip(table, record.seed).digest)
    if record.guarantee.kind == "selective":
        counted &= radius > 0
    return np.asarray(above[counted])


def _floats(values: np.ndarray) -> List[float]:
    return [float(value) for value in values]
