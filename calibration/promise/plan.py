"""Everything that is chosen before calibration, on the tuning split alone: map, difficulty, beta, selective rule.

A choice made on the calibration split would void its promise; made here it costs nothing but the tuning frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple, Union

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.crossfit import cross_fitted_radii, fit_map, map_names, rule_for
from rrise.calibration.promise.fit import calibrate
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import RadiusMap
from rrise.calibration.promise.objective import Objective, Radius
from rrise.calibration.promise.record import Calibration, format_number
from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.files import read_json, reading, write_json
from rrise.calibration.storage.formats import check_format
from rrise.calibration.tables.scores import Scores

BETAS = (Fraction(1, 50), Fraction(1, 20), Fraction(1, 10), Fraction(1, 5))
"""Miss probabilities that `choose_plan` tries where it may choose beta."""

FORMATS = ("rrise-plan/1", "rrise-plan/2", "rrise-plan/3")
"""The second is that of a map with a step, the third that of any other staircase (see `promise.record`), of several radii, and
of offsets to be tested in turn."""


@dataclass(frozen=True)
class PlanCandidate:
    """One combination of map, difficulty and beta, and what it was worth on the tuning split.

    Attributes:
        name: of the map.
        difficulty: whether the offset is scaled.
        beta: as text of a rational.
        objective: what `Plan.objective` makes of the radii: share of frames with at least the radius to be optimised, weighted
            sum of such shares, or the mean radius.
        issued: share of frames with a radius of at least each of `Plan.radii`.
    """

    name: str
    difficulty: bool
    beta: str
    objective: float
    issued: Tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """What `calibrate` is to be called with; made by `choose_plan`.

    Attributes:
        guarantee: as asked, with the chosen beta.
        map, difficulty, threshold: of the head.
        objective: radii that were optimised, with their weights; none: the mean radius.
        radii: at which `candidates` report.
        candidates: everything that was tried, in order.
        offsets: selective kind with stairs: offsets to be tested in turn; empty elsewhere.
    """

    guarantee: Guarantee
    map: RadiusMap
    difficulty: bool
    threshold: Optional[float]
    objective: Objective
    radii: Tuple[float, ...]
    candidates: Tuple[PlanCandidate, ...]
    offsets: Tuple[float, ...] = ()

    def calibrate(
        self, scores: Scores, *, training_digests: Iterable[Union[str, bytes]] = (), attempt: int = 0
    ) -> Calibration:
        """Calibrate one execution as planned; see `rrise.calibration.promise.fit.calibrate` for arguments and guarantee."""
        return calibrate(
            scores,
            self.guarantee,
            self.map,
            training_digests=training_digests,
            attempt=attempt,
            difficulty=self.difficulty,
            threshold=self.threshold,
            offsets=self.offsets,
        )

    @property
    def _format(self) -> str:
        new = len(self.objective.to_json()) > 1 or self.offsets
        return FORMATS[2 if new else format_number(self.map)]

    def to_json(self) -> Dict[str, Any]:
        return {
            "format": self._format,
            "guarantee": self.guarantee.to_json(),
            "map": self.map.to_json(),
            "difficulty": self.difficulty,
            "threshold": self.threshold,
            **self.objective.to_json(),
            "radii": list(self.radii),
            "candidates": [
                {**vars(candidate), "issued": list(candidate.issued)} for candidate in self.candidates
            ],
            **({"offsets": list(self.offsets)} if self.offsets else {}),
        }

    def save(self, path: PathLike) -> None:
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: PathLike) -> "Plan":
        """Read a plan; raises CalibrationError for anything else."""
        value = read_json(path, "plan")
        with reading(path, "plan"):
            check_format("plan", value["format"], FORMATS, "run `rrise-train calibrate` again")
            plan = cls(
                guarantee=Guarantee.from_json(value["guarantee"]),
                map=RadiusMap.from_json(value["map"]),
                difficulty=bool(value["difficulty"]),
                threshold=None if value["threshold"] is None else float(value["threshold"]),
                objective=Objective.from_json(value),
                radii=tuple(float(radius) for radius in value["radii"]),
                candidates=tuple(
                    PlanCandidate(**{**item, "issued": tuple(item["issued"])}) for item in value["candidates"]
                ),
                offsets=tuple(float(offset) for offset in value.get("offsets", ())),
            )
            if value["format"] != plan._format:
                raise CalibrationError(f"got format {value['format']!r}, expected {plan._format!r}")
            return plan


def planning_radii(sigma: float) -> Tuple[float, float, float]:
    """A small, a middle and a large radius: sigma, 2 sigma and 3 sigma."""
    return (sigma, 2 * sigma, 3 * sigma)


def choose_plan(
    tuning: Scores,
    guarantee: Guarantee,
    *,
    radius: Radius = None,
    weights: Sequence[float] = (),
    num_calibration: int = 0,
    betas: Sequence[Fraction] = (),
    seed: int = 0,
    names: Sequence[str] = (),
) -> Plan:
    """Try maps, difficulty and betas on the tuning split and keep what issues most.

    Args:
        tuning: scores of split "tuning".
        guarantee: what will be promised.
        radius: the radius, or increasing radii, of which certificates are wanted; None maximises the mean radius.
        weights: what a certificate of each radius is worth; 1 by default.
        num_calibration: units (frames, clips) of the calibration split to come; 0: as many as here.
        betas: to choose among; empty keeps the guarantee's.
        seed: of the halves between which fitting and trying are divided.
        names: of the maps to be tried, as in `rrise.calibration.promise.crossfit.map_names`; empty: all.

    Raises:
        CalibrationError: another split, a radius that is not positive, or too few frames of either split.

    **Guarantee**: none; whatever comes out is calibrated on other frames.
    """
    objective = Objective.of(radius, weights)
    _check(tuning)
    units = num_calibration or len(np.unique(tuning.clip))
    radii, rows, best, left_out = planning_radii(tuning.sigma), [], None, []
    for beta in betas or (guarantee.beta,):
        asked = replace(guarantee, beta=beta)
        for name, difficulty in map_names(tuning, asked, objective):
            if names and name not in names:
                continue
            fitted: Dict[str, Any] = {"objective": objective, "difficulty": difficulty}
            try:
                found = cross_fitted_radii(
                    tuning, asked, name, num_calibration=num_calibration, seed=seed, **fitted
                )
                curve = fit_map(name, tuning, asked, units=units, **fitted)
            except CalibrationError as error:
                # One that cannot be fitted to these frames (all plug-in radii equal, say) is no candidate.
                left_out.append(error)
                continue
            row = _candidate(found, name, difficulty, beta, objective, radii)
            rows.append(row)
            if best is None or row.objective > best[0].objective:
                best = (row, asked, curve)
    if best is None and left_out:
        raise left_out[0]
    if best is None:
        raise CalibrationError(
            f"plan: none of the maps {', '.join(names)} suits {objective.describe()} with {len(tuning)} tuning frames; give "
            f"more frames, a radius, or another map"
        )
    winner, asked, curve = best
    rule = rule_for(curve, tuning, asked, objective, difficulty=winner.difficulty, units=units)
    return Plan(
        asked,
        curve,
        winner.difficulty,
        rule.head.threshold,
        objective,
        radii,
        tuple(rows),
        rule.offsets,
    )


def _candidate(
    found: np.ndarray,
    name: str,
    difficulty: bool,
    beta: Fraction,
    objective: Objective,
    radii: Tuple[float, ...],
) -> PlanCandidate:
    issued = tuple(float(np.mean(found >= r)) for r in radii)
    text = f"{beta.numerator}/{beta.denominator}"
    return PlanCandidate(name, difficulty, text, objective.worth(found), issued)


def _check(tuning: Scores) -> None:
    if tuning.split != "tuning":
        raise CalibrationError(
            f"plan: got scores of split {tuning.split!r}, expected 'tuning'; score that split"
        )
    if not len(tuning):
        raise CalibrationError("plan: got no tuning frames")
