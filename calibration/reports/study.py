"""The trade-off between error level, share issued and certified accuracy, from the tuning scores alone.

A safety engineer chooses the level from it. It reads no calibration frame, so that the choice costs no promise; its
numbers foretell what a calibration will give, and promise nothing themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.crossfit import cross_fitted_radii, map_names
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.plan import default_radii
from rrise.calibration.statistics.levels import level_text
from rrise.calibration.tables.scores import Scores

ERRORS = tuple(Fraction(text) for text in ("0.001", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2"))
"""Error levels of a study, unless others are asked for."""


@dataclass(frozen=True)
class MapRow:
    """What one map would issue at the guarantee's own error level.

    Attributes:
        name, difficulty: as in `rrise.calibration.promise.crossfit.map_names`.
        issued, accuracy: share of frames with at least each radius; accuracy wants the true label as well.
        gain: issued, less that of the plain offset.
    """

    name: str
    difficulty: bool
    issued: Tuple[float, ...]
    accuracy: Tuple[float, ...]
    gain: Tuple[float, ...]


@dataclass(frozen=True)
class LevelRow:
    """What the best map would give at one error level.

    Attributes:
        error: as text.
        map, difficulty: the best for the radius to be optimised.
        frames_needed, enough: of the calibration split to come.
        wrong_per_hour: permitted, at the study's frame rate.
        issued, accuracy: at each radius; what they would be with enough frames where `enough` is False.
    """

    error: str
    map: str
    difficulty: bool
    frames_needed: int
    enough: bool
    wrong_per_hour: float
    issued: Tuple[float, ...]
    accuracy: Tuple[float, ...]


@dataclass(frozen=True)
class ClassRow:
    """Frames that the surrogate gives one label, at the guarantee's own error level."""

    name: str
    frames: int
    issued: Tuple[float, ...]
    accuracy: Tuple[float, ...]


@dataclass(frozen=True)
class Study:
    """Everything that the report of a study shows.

    Attributes:
        guarantee: kind, confidence and beta of all rows, and the error of `maps`, `classes` and `curve`.
        radius: that was optimised; None: the mean radius.
        radii: of the rows; 0 counts every certificate.
        frames: of the tuning split; num_calibration: units of the calibration split to come.
        frame_rate: frames a second.
        known: whether true labels were known, without which certified accuracy is not shown.
        curve: (radius, issued, accuracy) on a fine grid for the best map.
    """

    guarantee: Guarantee
    radius: Optional[float]
    radii: Tuple[float, ...]
    frames: int
    num_calibration: int
    frame_rate: float
    known: bool
    levels: Tuple[LevelRow, ...]
    maps: Tuple[MapRow, ...]
    classes: Tuple[ClassRow, ...]
    curve: Tuple[Tuple[float, float, float], ...]

    def to_json(self) -> Dict[str, Any]:
        """The study as JSON; certified accuracy is null where no true label is known."""
        value = asdict(self)
        value["guarantee"] = self.guarantee.to_json()
        value["sentence"] = self.guarantee.sentence()
        value["conditions"] = list(self.guarantee.conditions())
        value["curve"] = [list(point) for point in self.curve]
        if not self.known:
            for row in (*value["levels"], *value["maps"], *value["classes"]):
                row["accuracy"] = None
            value["curve"] = [[r, issued, None] for r, issued, _ in self.curve]
        return value


def make_study(
    tuning: Scores,
    guarantee: Guarantee,
    *,
    errors: Sequence[Fraction] = ERRORS,
    radii: Sequence[float] = (),
    radius: Optional[float] = None,
    num_calibration: int = 0,
    frame_rate: float = 30.0,
    seed: int = 0,
) -> Study:
    """Foretell what each error level and each map would give.

    Args:
        tuning: scores of split "tuning".
        guarantee: kind, confidence, beta, guard; its error is the one that maps and classes are compared at.
        errors: levels of the trade-off.
        radii: to report at; empty: 0, sigma, 2 sigma, 3 sigma.
        radius: the radius at which most certificates are wanted; None: the mean radius decides.
        num_calibration: units of the calibration split to come; 0: as many as here.
        frame_rate: frames a second, for wrong certificates per hour.
        seed: of the halves of the tuning split.

    Raises:
        CalibrationError: another split, no frames, or radii, rates or levels out of range.
    """
    _check(tuning, radii, radius, frame_rate)
    wanted = tuple(radii) or (0.0, *default_radii(tuning.sigma))
    units = num_calibration or len(np.unique(tuning.clip))
    options: Dict[str, Any] = {"radius": radius, "num_calibration": units, "seed": seed}
    levels = []
    for error in sorted(set(errors)):
        asked = replace(guarantee, error=error)
        name, difficulty, found = _best(_all_maps(tuning, asked, options), radius)
        levels.append(_level_row(tuning, asked, name, difficulty, found, wanted, units, frame_rate))
    tried = _all_maps(tuning, guarantee, options)
    name, _, found = _best(tried, radius)
    grid = [float(r) for r in np.linspace(0.0, max(float(found.max()), 1e-6), 101)]
    return Study(
        guarantee=guarantee,
        radius=radius,
        radii=wanted,
        frames=len(tuning),
        num_calibration=units,
        frame_rate=frame_rate,
        known=bool((tuning.target >= 0).all()),
        levels=tuple(levels),
        maps=_map_rows(tuning, tried, wanted),
        classes=_class_rows(tuning, found, wanted),
        curve=tuple(zip(grid, _issued(found, grid), _accuracy(tuning, found, grid))),
    )


Tried = List[Tuple[str, bool, np.ndarray]]


def _check(tuning: Scores, radii: Sequence[float], radius: Optional[float], frame_rate: float) -> None:
    if tuning.split != "tuning":
        raise CalibrationError(
            f"study: got scores of split {tuning.split!r}, expected 'tuning': what is chosen on it must not be "
            "calibrated on it"
        )
    if not len(tuning):
        raise CalibrationError("study: got no frames")
    for value in (*radii, *(() if radius is None else (radius,))):
        if not (np.isfinite(value) and value >= 0):
            raise CalibrationError(f"study: got radius {value}, expected radii >= 0 in [0, 1] pixel units")
    if radius is not None and radius == 0:
        raise CalibrationError("study: got radius 0 to be optimised, expected a positive radius")
    if not (np.isfinite(frame_rate) and frame_rate > 0):
        raise CalibrationError(
            f"study: got frame rate {frame_rate}, expected a positive number of frames a second"
        )


def _all_maps(tuning: Scores, guarantee: Guarantee, options: Dict[str, Any]) -> Tried:
    return [
        (name, difficulty, cross_fitted_radii(tuning, guarantee, name, difficulty=difficulty, **options))
        for name, difficulty in map_names(tuning, guarantee, options["radius"])
    ]


def _best(tried: Tried, radius: Optional[float]) -> Tuple[str, bool, np.ndarray]:
    return max(
        tried, key=lambda row: float(np.mean(row[2] >= radius) if radius is not None else np.mean(row[2]))
    )


def _issued(found: np.ndarray, radii: Sequence[float]) -> List[float]:
    return [float(np.mean((found > 0) & (found >= r))) for r in radii]


def _accuracy(tuning: Scores, found: np.ndarray, radii: Sequence[float]) -> List[float]:
    right = tuning.label == tuning.target
    return [float(np.mean((found > 0) & (found >= r) & right)) for r in radii]


def _level_row(
    tuning: Scores,
    guarantee: Guarantee,
    name: str,
    difficulty: bool,
    found: np.ndarray,
    radii: Sequence[float],
    units: int,
    frame_rate: float,
) -> LevelRow:
    return LevelRow(
        error=level_text(guarantee.error),
        map=name,
        difficulty=difficulty,
        frames_needed=guarantee.frames_needed(),
        enough=guarantee.rank(units) is not None,
        wrong_per_hour=guarantee.wrong_per_hour(frame_rate),
        issued=tuple(_issued(found, radii)),
        accuracy=tuple(_accuracy(tuning, found, radii)),
    )


def _map_rows(tuning: Scores, tried: Tried, radii: Sequence[float]) -> Tuple[MapRow, ...]:
    plain = next(found for name, difficulty, found in tried if name == "identity" and not difficulty)
    before = np.array(_issued(plain, radii))
    rows = []
    for name, difficulty, found in tried:
        issued = _issued(found, radii)
        gain = tuple(float(value) for value in np.array(issued) - before)
        rows.append(MapRow(name, difficulty, tuple(issued), tuple(_accuracy(tuning, found, radii)), gain))
    return tuple(rows)


def _class_rows(tuning: Scores, found: np.ndarray, radii: Sequence[float]) -> Tuple[ClassRow, ...]:
    rows = []
    for label, name in enumerate(tuning.class_names):
        mine = tuning.label == label
        part = tuning.take(mine)
        shares = (_issued(found[:, mine], radii), _accuracy(part, found[:, mine], radii))
        empty = [0.0] * len(radii)
        issued, accuracy = shares if mine.any() else (empty, empty)
        rows.append(ClassRow(name, int(mine.sum()), tuple(issued), tuple(accuracy)))
    return tuple(rows)
