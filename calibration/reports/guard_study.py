"""What an attack budget rho costs over a range of noise s, and which s to take: from tuning scores alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.crossfit import cross_fitted_radii, map_names
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.promise.objective import Objective, Radius
from rrise.calibration.promise.plan import planning_radii
from rrise.calibration.tables.scores import Scores


@dataclass(frozen=True)
class GuardRow:
    """One surrogate (trained and scored with noise s) against one rho.

    Attributes:
        rho, noise: in [0, 1] pixel units.
        level: the tightened error level, 0 where none is left.
        frames_needed: of the calibration split; 0 where no level is left.
        enough: whether the calibration split to come has them.
        map: the best one, empty where nothing can be issued.
        issued, accuracy: share of tuning frames with at least each radius; accuracy wants the true label as well.
        objective: what `noise` is chosen by.
    """

    rho: float
    noise: float
    level: float
    frames_needed: int
    enough: bool
    map: str
    issued: Tuple[float, ...]
    accuracy: Tuple[float, ...]
    objective: float


@dataclass(frozen=True)
class GuardStudy:
    """Rows by rho and noise, and the noise chosen for each rho (None where nothing can be issued)."""

    guarantee: Guarantee
    radii: Tuple[float, ...]
    rows: Tuple[GuardRow, ...]
    chosen: Tuple[Tuple[float, Optional[float]], ...]

    def to_json(self) -> Dict[str, Any]:
        return {
            "guarantee": self.guarantee.to_json(),
            "radii": list(self.radii),
            "rows": [asdict(row) for row in self.rows],
            "chosen": [{"rho": rho, "noise": noise} for rho, noise in self.chosen],
        }


def study_guard(
    tables: Mapping[float, Scores],
    guarantee: Guarantee,
    rhos: Sequence[float],
    *,
    radii: Sequence[float] = (),
    radius: Radius = None,
    weights: Sequence[float] = (),
    num_calibration: int = 0,
) -> GuardStudy:
    """Foretell what the guarded tier would issue for every rho and noise.

    Args:
        tables: noise s -> scores of split "tuning", from the surrogate that is run with that noise.
        guarantee: kind, error, confidence and beta; its own guard is ignored.
        rhos: attack budgets, [0, 1] pixel units.
        radii: to report at; empty: 0, sigma, 2 sigma, 3 sigma.
        radius: the radius, or increasing radii, of which certificates are wanted; None: the mean radius.
        weights: what a certificate of each radius is worth; 1 by default.
        num_calibration: frames of the calibration split to come; 0: as many as the tuning split has.

    Raises:
        CalibrationError: no tables or rhos, another split, or a kind that does not survive an attack.
    """
    if not tables or not len(rhos):
        raise CalibrationError("guard study: got no tables or no rho, expected at least one of each")
    for noise, table in tables.items():
        if table.split != "tuning":
            raise CalibrationError(
                f"guard study: the scores for noise {noise:g} are of split {table.split!r}, expected 'tuning'"
            )
    wanted = tuple(radii) or (0.0, *planning_radii(next(iter(tables.values())).sigma))
    rows: List[GuardRow] = []
    chosen: List[Tuple[float, Optional[float]]] = []
    for rho in rhos:
        mine = [
            _row(
                tables[noise],
                guarantee,
                Guard(rho, noise),
                wanted,
                Objective.of(radius, weights),
                num_calibration,
            )
            for noise in sorted(tables)
        ]
        rows += mine
        best = max(mine, key=lambda row: row.objective)
        chosen.append((rho, best.noise if best.objective > 0 else None))
    return GuardStudy(replace(guarantee, guard=None), wanted, tuple(rows), tuple(chosen))


def _row(
    tuning: Scores,
    guarantee: Guarantee,
    guard: Guard,
    radii: Tuple[float, ...],
    objective: Objective,
    num_calibration: int,
) -> GuardRow:
    asked = replace(guarantee, guard=guard)
    units = num_calibration or len(np.unique(tuning.clip))
    nothing = (0.0,) * len(radii)
    try:
        level = float(guard.level(guarantee.error))
    except CalibrationError:
        return GuardRow(guard.rho, guard.noise, 0.0, 0, False, "", nothing, nothing, 0.0)
    needed, enough = asked.frames_needed(), asked.rank(units) is not None
    if not enough:
        return GuardRow(guard.rho, guard.noise, level, needed, False, "", nothing, nothing, 0.0)
    found, name, best = np.zeros((1, len(tuning)), np.float32), "", 0.0
    for candidate, difficulty in map_names(tuning, asked, objective):
        tried = cross_fitted_radii(
            tuning, asked, candidate, difficulty=difficulty, objective=objective, num_calibration=units
        )
        worth = objective.worth(tried)
        if worth > best:
            found, name, best = tried, candidate + (" + difficulty" if difficulty else ""), worth
    right = tuning.label == tuning.target
    return GuardRow(
        guard.rho,
        guard.noise,
        level,
        needed,
        True,
        name,
        tuple(float(np.mean((found > 0) & (found >= r))) for r in radii),
        tuple(float(np.mean((found > 0) & (found >= r) & right)) for r in radii),
        best,
    )
