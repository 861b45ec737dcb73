"""Everything that is chosen before calibration, on the tuning split alone: map, difficulty, beta, selective rule.

A choice made on the calibration split would void its promise; made here it costs nothing but the tuning frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.crossfit import cross_fitted_radii, fit_map, map_names
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import RadiusMap
from rrise.calibration.promise.selective import choose_threshold
from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.files import read_json, reading, write_json
from rrise.calibration.tables.scores import Scores

BETAS = (Fraction(1, 50), Fraction(1, 20), Fraction(1, 10), Fraction(1, 5))
"""Miss probabilities that `choose_plan` tries where it may choose beta."""

FORMAT, STEP_FORMAT = "rrise-plan/1", "rrise-plan/2"
"""The second is that of a map with a step (see `rrise.calibration.promise.record`)."""


@dataclass(frozen=True)
class Candidate:
    """One combination of map, difficulty and beta, and what it was worth on the tuning split.

    Attributes:
        name: of the map.
        difficulty: whether the offset is scaled.
        beta: as text of a rational.
        objective: share of frames with at least the radius to be optimised, or the mean radius without one.
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
        radius: that was optimised; None: the mean radius.
        radii: at which `candidates` report.
        candidates: everything that was tried, in order.
    """

    guarantee: Guarantee
    map: RadiusMap
    difficulty: bool
    threshold: Optional[float]
    radius: Optional[float]
    radii: Tuple[float, ...]
    candidates: Tuple[Candidate, ...]

    def to_json(self) -> Dict[str, Any]:
        return {
            "format": FORMAT if self.map.step is None else STEP_FORMAT,
            "guarantee": self.guarantee.to_json(),
            "map": self.map.to_json(),
            "difficulty": self.difficulty,
            "threshold": self.threshold,
            "radius": self.radius,
            "radii": list(self.radii),
            "candidates": [
                {**vars(candidate), "issued": list(candidate.issued)} for candidate in self.candidates
            ],
        }

    def save(self, path: PathLike) -> None:
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: PathLike) -> "Plan":
        """Read a plan; raises CalibrationError for anything else."""
        value = read_json(path, "plan")
        with reading(path, "plan"):
            if value["format"] not in (FORMAT, STEP_FORMAT):
                raise CalibrationError(
                    f"got format {value['format']!r}, expected {FORMAT!r} or {STEP_FORMAT!r}"
                )
            return cls(
                guarantee=Guarantee.from_json(value["guarantee"]),
                map=RadiusMap.from_json(value["map"]),
                difficulty=bool(value["difficulty"]),
                threshold=None if value["threshold"] is None else float(value["threshold"]),
                radius=None if value["radius"] is None else float(value["radius"]),
                radii=tuple(float(radius) for radius in value["radii"]),
                candidates=tuple(
                    Candidate(**{**item, "issued": tuple(item["issued"])}) for item in value["candidates"]
                ),
            )


def default_radii(sigma: float) -> Tuple[float, float, float]:
    """A small, a middle and a large radius: sigma, 2 sigma and 3 sigma."""
    return (sigma, 2 * sigma, 3 * sigma)


def choose_plan(
    tuning: Scores,
    guarantee: Guarantee,
    *,
    radius: Optional[float] = None,
    num_calibration: int = 0,
    betas: Sequence[Fraction] = (),
    seed: int = 0,
) -> Plan:
    """Try maps, difficulty and betas on the tuning split and keep what issues most.

    Args:
        tuning: scores of split "tuning".
        guarantee: what will be promised.
        radius: the radius at which most certificates are wanted; None maximises the mean radius.
        num_calibration: units (frames, clips) of the calibration split to come; 0: as many as here.
        betas: to choose among; empty keeps the guarantee's.
        seed: of the halves between which fitting and trying are divided.

    Raises:
        CalibrationError: another split, a radius that is not positive, or too few frames of either split.

    **Guarantee**: none; whatever comes out is calibrated on other frames.
    """
    _check(tuning, radius)
    radii, rows, best, left_out = default_radii(tuning.sigma), [], None, []
    for beta in betas or (guarantee.beta,):
        asked = replace(guarantee, beta=beta)
        for name, difficulty in map_names(tuning, asked, radius):
            try:
                found = cross_fitted_radii(
                    tuning,
                    asked,
                    name,
                    difficulty=difficulty,
                    radius=radius,
                    num_calibration=num_calibration,
                    seed=seed,
                )
                curve = fit_map(name, tuning, asked, radius=radius)
            except CalibrationError as error:
                # One that cannot be fitted to these frames (all plug-in radii equal, say) is no candidate.
                left_out.append(error)
                continue
            row = _candidate(found, name, difficulty, beta, radius, radii)
            rows.append(row)
            if best is None or row.objective > best[0].objective:
                best = (row, asked, curve)
    if best is None:
        raise left_out[0]
    winner, asked, curve = best
    threshold = None
    if guarantee.kind == "selective":
        threshold = choose_threshold(tuning, asked, curve, radius=radius, num_calibration=num_calibration)
    return Plan(asked, curve, winner.difficulty, threshold, radius, radii, tuple(rows))


def _candidate(
    found: np.ndarray,
    name: str,
    difficulty: bool,
    beta: Fraction,
    radius: Optional[float],
    radii: Tuple[float, ...],
) -> Candidate:
    objective = float(np.mean(found >= radius) if radius is not None else np.mean(found))
    issued = tuple(float(np.mean(found >= r)) for r in radii)
    return Candidate(name, difficulty, f"{beta.numerator}/{beta.denominator}", objective, issued)


def _check(tuning: Scores, radius: Optional[float]) -> None:
    if tuning.split != "tuning":
        raise CalibrationError(
            f"plan: got scores of split {tuning.split!r}, expected 'tuning'; score that split"
        )
    if radius is not None and not (math.isfinite(radius) and radius > 0):
        raise CalibrationError(f"plan: got radius {radius}, expected a positive radius in [0, 1] pixel units")
    if not len(tuning):
        raise CalibrationError("plan: got no tuning frames")
