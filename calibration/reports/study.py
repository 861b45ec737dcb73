"""The trade-off between error level, share issued and certified accuracy, from the tuning scores alone.

A safety engineer chooses the level from it. It reads no calibration frame, so that the choice costs no promise; its
numbers foretell what a calibration will give, and promise nothing themselves. Accuracy is shown gross, and net of the
certificates that would be wrong: a level that permits many of those flatters itself in the gross numbers.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.crossfit import cross_fitted_radii, map_names
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.objective import Objective, Radius
from rrise.calibration.promise.offsets import independent_frames
from rrise.calibration.promise.plan import planning_radii
from rrise.calibration.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper
from rrise.calibration.statistics.levels import level_text
from rrise.calibration.tables.evaluation import audit_reach_note, judge
from rrise.calibration.tables.scores import Scores

WIDE = 1.645
"""Deviations to either side within which an offset to come lies with probability 90 %."""
OF_FRAMES = 0.05
"""What each end of the interval of a share leaves out, for the frames that stand for all."""

ERRORS = tuple(Fraction(text) for text in ("0.001", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2"))
"""Error levels of a study, unless others are asked for."""


@dataclass(frozen=True)
class MapRow:
    """What one map would issue at the guarantee's own error level.

    Attributes:
        name, difficulty: as in `rrise.calibration.promise.crossfit.map_names`.
        issued, accuracy: share of frames with at least each radius; accuracy wants the true label as well (gross).
        net: accuracy less the certificates that exceed the true radius. wrong: share of those among the issued ones.
        gain: issued, less that of the plain offset.
    """

    name: str
    difficulty: bool
    issued: Tuple[float, ...]
    accuracy: Tuple[float, ...]
    net: Tuple[float, ...]
    wrong: Tuple[float, ...]
    gain: Tuple[float, ...]


@dataclass(frozen=True)
class LevelRow:
    """What the best map would give at one error level.

    Attributes:
        error: as text.
        map, difficulty: the best for the radii to be optimised.
        frames_needed, enough: of the calibration split to come.
        wrong_per_hour: permitted, at the study's frame rate.
        issued, accuracy, net, wrong: at each radius; what they would be with enough frames where `enough` is False.
        among_issued: bound on the wrong share among all issued certificates that the level permits.
        interval: of `issued` at each radius, what a calibration may give as well: the offset to come lies 1.645 deviations to
            either side, and the tuning frames are a sample (Clopper-Pearson, 90 %). A forecast, no promise.
    """

    error: str
    map: str
    difficulty: bool
    frames_needed: int
    enough: bool
    wrong_per_hour: float
    issued: Tuple[float, ...]
    accuracy: Tuple[float, ...]
    net: Tuple[float, ...]
    wrong: Tuple[float, ...]
    among_issued: float
    interval: Tuple[Tuple[float, float], ...]


@dataclass(frozen=True)
class ClassRow:
    """Frames that the surrogate gives one label, at the guarantee's own error level."""

    name: str
    frames: int
    issued: Tuple[float, ...]
    accuracy: Tuple[float, ...]
    net: Tuple[float, ...]
    wrong: Tuple[float, ...]


@dataclass(frozen=True)
class Study:
    """Everything that the report of a study shows.

    Attributes:
        guarantee: kind, confidence and beta of all rows, and the error of `maps`, `classes` and `curve`.
        objective: radii that were optimised; none: the mean radius.
        radii: of the rows; 0 counts every certificate.
        frames: of the tuning split; num_calibration: units of the calibration split to come.
        frame_rate: frames a second.
        known: whether true labels were known, without which certified accuracy is not shown.
        oracle: share of frames whose true class has a true radius of at least each of `radii`.
        note: whether the tuning split's own draws, which judge what each half of it would be issued, decide at `radii`.
        curve: (radius, issued, net accuracy) on a fine grid for the best map.
    """

    guarantee: Guarantee
    objective: Objective
    radii: Tuple[float, ...]
    frames: int
    num_calibration: int
    frame_rate: float
    known: bool
    oracle: Tuple[float, ...]
    note: str
    levels: Tuple[LevelRow, ...]
    maps: Tuple[MapRow, ...]
    classes: Tuple[ClassRow, ...]
    curve: Tuple[Tuple[float, float, float], ...]

    def to_json(self) -> Dict[str, Any]:
        """The study as JSON; certified accuracy is null where no true label is known."""
        value = asdict(self)
        del value["objective"]
        value.update(self.objective.to_json())
        value["guarantee"] = self.guarantee.to_json()
        value["sentence"] = self.guarantee.sentence()
        value["conditions"] = list(self.guarantee.conditions())
        value["curve"] = [list(point) for point in self.curve]
        if not self.known:
            for row in (*value["levels"], *value["maps"], *value["classes"]):
                row["accuracy"] = row["net"] = None
            value["oracle"] = None
            value["curve"] = [[r, issued, None] for r, issued, _ in self.curve]
        return value


def make_study(
    tuning: Scores,
    guarantee: Guarantee,
    *,
    errors: Sequence[Fraction] = ERRORS,
    radii: Sequence[float] = (),
    radius: Radius = None,
    weights: Sequence[float] = (),
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
        radius: the radius, or increasing radii, of which certificates are wanted; None: the mean radius decides.
        weights: what a certificate of each radius is worth; 1 by default.
        num_calibration: units of the calibration split to come; 0: as many as here.
        frame_rate: frames a second, for wrong certificates per hour.
        seed: of the halves of the tuning split.

    Raises:
        CalibrationError: another split, no frames, or radii, rates or levels out of range.
    """
    objective = Objective.of(radius, weights)
    _check(tuning, radii, frame_rate)
    wanted = tuple(radii) or (0.0, *planning_radii(tuning.sigma))
    units = num_calibration or len(np.unique(tuning.clip))
    options: Dict[str, Any] = {"objective": objective, "num_calibration": units, "seed": seed}
    levels, alone = [], independent_frames(tuning, seed)
    for error in sorted(set(errors)):
        asked = replace(guarantee, error=error)
        name, difficulty, found = _best(_all_maps(tuning, asked, options), objective)
        worth = _worth(tuning, asked, found, wanted)
        spread = cross_fitted_radii(
            tuning, asked, name, difficulty=difficulty, steps=(-WIDE, WIDE), **options
        )
        interval = _interval(spread, wanted, len(np.unique(tuning.clip)))
        row = _level_row(asked, name, difficulty, worth, found[:, alone], units, frame_rate, interval)
        levels.append(row)
    tried = _all_maps(tuning, guarantee, options)
    name, _, found = _best(tried, objective)
    grid = [float(r) for r in np.linspace(0.0, max(float(found.max()), 1e-6), 101)]
    curve = _worth(tuning, guarantee, found, grid)
    judged = judge(tuning, found[0])
    extra = 0.0 if guarantee.guard is None else guarantee.guard.rho
    return Study(
        guarantee=guarantee,
        objective=objective,
        radii=wanted,
        frames=len(tuning),
        num_calibration=units,
        frame_rate=frame_rate,
        known=bool((tuning.target >= 0).all()),
        levels=tuple(levels),
        oracle=tuple(row.oracle.value for row in judged.worth(wanted)),
        note=audit_reach_note(wanted, int(tuning.num_samples.min()), tuning.sigma, extra),
        maps=_map_rows(tuning, guarantee, tried, wanted),
        classes=_class_rows(tuning, guarantee, found, wanted),
        curve=tuple(zip(grid, curve.issued, curve.net)),
    )


Tried = List[Tuple[str, bool, np.ndarray]]


def _check(tuning: Scores, radii: Sequence[float], frame_rate: float) -> None:
    if tuning.split != "tuning":
        raise CalibrationError(
            f"study: got scores of split {tuning.split!r}, expected 'tuning': what is chosen on it must not be "
            "calibrated on it"
        )
    if not len(tuning):
        raise CalibrationError("study: got no frames")
    for value in radii:
        if not (np.isfinite(value) and value >= 0):
            raise CalibrationError(f"study: got radius {value}, expected radii >= 0 in [0, 1] pixel units")
    if not (np.isfinite(frame_rate) and frame_rate > 0):
        raise CalibrationError(
            f"study: got frame rate {frame_rate}, expected a positive number of frames a second"
        )


def _all_maps(tuning: Scores, guarantee: Guarantee, options: Dict[str, Any]) -> Tried:
    return [
        (name, difficulty, cross_fitted_radii(tuning, guarantee, name, difficulty=difficulty, **options))
        for name, difficulty in map_names(tuning, guarantee, options["objective"])
    ]


def _best(tried: Tried, objective: Objective) -> Tuple[str, bool, np.ndarray]:
    return max(tried, key=lambda row: objective.worth(row[2]))


@dataclass(frozen=True)
class _Shares:
    """At each radius, means over the repetitions of the cross-fit."""

    issued: Tuple[float, ...]
    accuracy: Tuple[float, ...]
    net: Tuple[float, ...]
    wrong: Tuple[float, ...]


def _worth(tuning: Scores, guarantee: Guarantee, found: np.ndarray, radii: Sequence[float]) -> _Shares:
    """What cross-fitted radii, float32 [repetitions, n], are worth.

    The draws of a frame judge it: what it would be issued was fitted on the other half of the split, so they are fresh.
    """
    extra = 0.0 if guarantee.guard is None else guarantee.guard.rho
    rows = [judge(tuning, radius, extra=extra) for radius in found]
    gross = np.mean([row.gross(radii) for row in rows], axis=(0, 2))
    net = np.mean([row.net(radii) for row in rows], axis=(0, 2))
    reached = np.array([[row.issued & (row.radius >= r) for row in rows] for r in radii])
    wrong = reached & ~np.array([row.holds for row in rows])[None]
    issued = reached.sum(axis=(1, 2))
    return _Shares(
        issued=_floats(reached.mean(axis=(1, 2))),
        accuracy=_floats(gross),
        net=_floats(net),
        wrong=_floats(wrong.sum(axis=(1, 2)) / np.maximum(issued, 1)),
    )


def _interval(spread: np.ndarray, radii: Sequence[float], units: int) -> Tuple[Tuple[float, float], ...]:
    """Ends of the shares issued, over radii float32 [runs, n] of offsets at either end; units: independent frames or clips."""
    ends = []
    for value in radii:
        shares = ((spread > 0) & (spread >= value)).mean(axis=1)
        fewest, most = math.floor(shares.min() * units), math.ceil(shares.max() * units)
        ends.append(
            (
                float(clopper_pearson_lower(fewest, units, OF_FRAMES)),
                float(clopper_pearson_upper(min(most, units), units, OF_FRAMES)),
            )
        )
    return tuple(ends)


def _floats(values: np.ndarray) -> Tuple[float, ...]:
    return tuple(float(value) for value in values)


def _level_row(
    guarantee: Guarantee,
    name: str,
    difficulty: bool,
    worth: _Shares,
    found: np.ndarray,
    units: int,
    frame_rate: float,
    interval: Tuple[Tuple[float, float], ...],
) -> LevelRow:
    """found: radii float32 [runs, m] of one frame of each clip, which the promise speaks of."""
    return LevelRow(
        error=level_text(guarantee.error),
        map=name,
        difficulty=difficulty,
        frames_needed=guarantee.frames_needed(),
        enough=guarantee.rank(units) is not None,
        wrong_per_hour=guarantee.wrong_per_hour(frame_rate),
        **vars(worth),
        among_issued=guarantee.among_issued(int((found > 0).sum()), found.size).bound,
        interval=interval,
    )


def _map_rows(
    tuning: Scores, guarantee: Guarantee, tried: Tried, radii: Sequence[float]
) -> Tuple[MapRow, ...]:
    plain = next(found for name, difficulty, found in tried if name == "identity" and not difficulty)
    before = np.array(_worth(tuning, guarantee, plain, radii).issued)
    rows = []
    for name, difficulty, found in tried:
        worth = _worth(tuning, guarantee, found, radii)
        rows.append(MapRow(name, difficulty, **vars(worth), gain=_floats(np.array(worth.issued) - before)))
    return tuple(rows)


def _class_rows(
    tuning: Scores, guarantee: Guarantee, found: np.ndarray, radii: Sequence[float]
) -> Tuple[ClassRow, ...]:
    rows, nothing = [], (0.0,) * len(radii)
    for label, name in enumerate(tuning.class_names):
        mine = tuning.label == label
        worth = _Shares(nothing, nothing, nothing, nothing)
        if mine.any():
            worth = _worth(tuning.take(mine), guarantee, found[:, mine], radii)
        rows.append(ClassRow(name, int(mine.sum()), **vars(worth)))
    return tuple(rows)
