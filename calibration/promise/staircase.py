"""Thresholds of a staircase, chosen on the tuning split: how the error level is shared over several radii.

A certificate above its reference is counted once, at the highest step that its frame reaches, so the errors of the steps add
up: where a step is lowered, it brings frames whose reference reaches it, and costs those whose reference lies below it and not
below the step before. For a price per error the best thresholds are found exactly; the price is the one at which
the errors use up the level (calibration/README.md, "A staircase").
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import RadiusMap, staircase_map
from rrise.calibration.promise.objective import Objective
from rrise.calibration.promise.offsets import reference_for
from rrise.calibration.tables.scores import Scores

PLACES = 256
"""Thresholds that are tried for each step: quantiles of what the tuning frames reach."""

BANDWIDTH = 0.1
"""By how much a frame of 1,000 is spread, in units of sigma: counts of single frames would be fitted, not the law behind."""

OFFSETS = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Offsets, in units of sigma, that thresholds are tried around where a difficulty scales the offset."""

_CHUNK = 4096


def fit_staircase(
    fit: Scores, guarantee: Guarantee, objective: Objective, *, difficulty: bool = False, units: int = 0
) -> RadiusMap:
    """The staircase that is worth most on the frames of `fit` within the error level.

    Args:
        fit: scores of tuning frames.
        guarantee: whose level is shared; selective: among the issued frames.
        objective: the radii and their weights. A certificate above its reference is worth nothing.
        difficulty: whether the offset is scaled; thresholds then stand around an offset above 0, with which frames of a large
            difficulty reach less.
        units: of the calibration split to come; 0: as many as here.

    Returns:
        A map on the plug-in radius. A radius that no threshold makes affordable is left out, but never all of them.

    Raises:
        CalibrationError: an objective without radii, or no frames.

    **Guarantee**: none; whatever comes out is calibrated on other frames.
    """
    if not objective.radii or not len(fit):
        raise CalibrationError(
            f"plan: got {objective.describe()} and {len(fit)} frames for a staircase, expected the radii that it issues, and "
            "tuning frames"
        )
    reference = reference_for(fit, guarantee)
    plugin = np.float64(fit.sigma) * fit.probit.astype(np.float64)
    units = units or len(np.unique(fit.clip))
    best: Optional[_Stairs] = None
    for offset in OFFSETS if difficulty and fit.difficulty is not None else (0.0,):
        reach = plugin
        if offset and fit.difficulty is not None:
            reach = plugin - offset * fit.sigma * fit.difficulty.astype(np.float64)
        found = _within_level(reach, reference, fit, guarantee, objective, units)
        if best is None or found.worth > best.worth:
            best = found
    assert best is not None
    return staircase_map(best.radii, best.thresholds)


@dataclass(frozen=True)
class _Stairs:
    """Steps that are affordable; worth: of the objective, per frame; issued: share of frames that reach the first."""

    radii: Tuple[float, ...]
    thresholds: Tuple[float, ...]
    worth: float
    issued: float


def _within_level(
    reach: np.ndarray,
    reference: np.ndarray,
    fit: Scores,
    guarantee: Guarantee,
    objective: Objective,
    units: int,
) -> _Stairs:
    """The best stairs for one statistic `reach`, at the share of errors that the rank will permit."""
    draws = guarantee.rules.num_draws(fit.clip)
    tally = _Tally.of(reach, reference, objective, BANDWIDTH * fit.sigma * (1000 / len(fit)) ** 0.2)
    if not guarantee.rules.among_issued:
        return tally.best(allowed_share(guarantee, units) * draws, objective)
    found, issued = tally.best(0.0, objective, allowed_share(guarantee, units)), 1.0
    for _ in range(3):  # the rank among the issued frames permits a smaller share the fewer they are
        issued = found.issued
        found = tally.best(0.0, objective, allowed_share(guarantee, max(round(issued * units), 1)))
    return found


def allowed_share(guarantee: Guarantee, units: int) -> float:
    """Which share of that many units may exceed their reference; alpha where they are too few for a rank."""
    rank = guarantee.rank(units)
    return float(guarantee.alpha) if rank is None else (units - rank) / units


@dataclass(frozen=True)
class _Tally:
    """What each threshold of each step gains and costs, in frames: float64 [places + 1, steps], the last never reached."""

    places: np.ndarray
    gain: np.ndarray
    cost: np.ndarray
    reached: np.ndarray

    @classmethod
    def of(cls, reach: np.ndarray, reference: np.ndarray, objective: Objective, bandwidth: float) -> "_Tally":
        radii, weights = np.array(objective.radii), np.array(objective.weights)
        places = np.unique(np.quantile(reach, np.linspace(0, 1, PLACES)))
        holds = reference[:, None].astype(np.float64) >= radii
        below = np.hstack([np.ones((len(holds), 1), bool), holds[:, :-1]])
        broken = below & ~holds  # the first step above the reference
        # Who breaks here held what the steps below are worth, and loses it.
        gain = holds * weights - broken * (np.cumsum(weights) - weights)
        totals = np.zeros((len(places) + 1, 2 * len(radii) + 1))
        each = np.hstack([gain, broken, np.ones((len(holds), 1))])
        for start in range(0, len(reach), _CHUNK):
            part = slice(start, start + _CHUNK)
            distance = np.clip((reach[part, None] - places) / (0.55 * bandwidth), -40, 40)
            totals[:-1] += (1.0 / (1.0 + np.exp(-distance))).T @ each[part]
        steps = len(radii)
        return cls(places, totals[:, :steps], totals[:, steps : 2 * steps], totals[:, -1])

    def best(self, budget: float, objective: Objective, per_issued: float = 0.0) -> _Stairs:
        """The stairs worth most whose cost, less `per_issued` of the issued frames, is at most `budget`."""
        cost = self.cost.copy()
        cost[:, 0] -= per_issued * self.reached
        low, high = 0.0, 1.0
        place = self._at_price(cost, low)
        if _total(cost, place) > budget:
            while _total(cost, self._at_price(cost, high)) > budget and high < 1e9:
                high *= 4
            for _ in range(40):
                middle = (low + high) / 2
                low, high = (
                    (low, middle) if _total(cost, self._at_price(cost, middle)) <= budget else (middle, high)
                )
            place = self._refined(cost, self._at_price(cost, high), budget)
        return self._stairs(place, objective)

    def _at_price(self, cost: np.ndarray, price: float) -> np.ndarray:
        """The best place of each step, never falling, where an error costs `price`; exact, by dynamic programming."""
        value = self.gain - price * cost
        best, choices = np.zeros(len(value)), []
        for step in reversed(range(value.shape[1])):
            total = value[:, step] + best
            # From each place on, the best one; the highest of equals, which issues least.
            order = np.arange(len(total))[::-1]
            highest = np.maximum.accumulate(total[::-1])
            first = total[::-1] >= highest
            first[1:] &= highest[1:] > highest[:-1]
            choices.append(np.maximum.accumulate(np.where(first, np.arange(len(total)), 0)))
            best = highest[::-1]
            choices[-1] = order[choices[-1]][::-1]
        place = [int(choices[-1][0])]
        for choice in choices[-2::-1]:
            place.append(int(choice[place[-1]]))
        return np.array(place)

    def _refined(self, cost: np.ndarray, place: np.ndarray, budget: float) -> np.ndarray:
        """Coordinate search, two steps at a time, as long as that gains within the budget; exact for two steps."""
        pairs = list(itertools.combinations(range(len(place)), 2)) or [(0, 0)]
        while True:
            options = [self._pair(cost, place, budget, *pair) for pair in pairs]
            better = max(options, key=lambda trial: _total(self.gain, trial))
            if _total(self.gain, better) <= _total(self.gain, place) + 1e-9:
                return place
            place = better

    def _pair(
        self, cost: np.ndarray, place: np.ndarray, budget: float, first: int, second: int
    ) -> np.ndarray:
        """The best places of two steps (or of one, named twice) with the others as they are, or all as they are."""
        others = [step for step in range(len(place)) if step not in (first, second)]
        left = budget - float(cost[place[others], others].sum())
        rows = [self._between(place, others, step) for step in (first, second)]
        low, high = (np.arange(*row) for row in rows)
        if first == second:
            spent, gain, order = cost[low, first][:, None], self.gain[low, first][:, None], np.array(True)
        else:
            spent = cost[low, first][:, None] + cost[high, second]
            gain = self.gain[low, first][:, None] + self.gain[high, second]
            order = low[:, None] <= high
        value = np.where((spent <= left) & order, gain, -np.inf)
        best = np.unravel_index(int(value.argmax()), value.shape)
        if not np.isfinite(value[best]):
            return place
        moved = place.copy()
        moved[second], moved[first] = high[best[1]], low[best[0]]
        return moved

    def _between(self, place: np.ndarray, others: Sequence[int], step: int) -> Tuple[int, int]:
        """Range of places that keep a step in order with the steps that stay."""
        below = [int(place[other]) for other in others if other < step]
        above = [int(place[other]) for other in others if other > step]
        return max(below, default=0), min(above, default=len(self.gain) - 1) + 1

    def _stairs(self, place: np.ndarray, objective: Objective) -> _Stairs:
        kept = place < len(self.places)
        if not kept.any():
            return _Stairs(objective.radii[:1], (float(self.places[-1]),), 0.0, 0.0)
        radii = tuple(radius for radius, keep in zip(objective.radii, kept) if keep)
        thresholds = tuple(float(value) for value in self.places[place[kept]])
        frames = self.reached[0] or 1.0
        return _Stairs(
            radii, thresholds, _total(self.gain, place) / frames, float(self.reached[place[0]]) / frames
        )


def _total(table: np.ndarray, place: np.ndarray) -> float:
    return float(table[place, np.arange(len(place))].sum())
