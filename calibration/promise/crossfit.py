"""Trying maps on the tuning split by cross-fitting: what would a calibration issue, on frames that chose nothing?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator, List, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.head import WITHHELD, CertificateHead
from rrise.calibration.promise.maps import IDENTITY, RadiusMap, clopper_pearson_map, step_map
from rrise.calibration.promise.objective import MEAN_RADIUS, Objective
from rrise.calibration.promise.offsets import excesses, label_reference, reference_for
from rrise.calibration.promise.quantile import quantile_map
from rrise.calibration.promise.selective import choose_threshold, offset_grid
from rrise.calibration.promise.staircase import allowed_share, fit_staircase
from rrise.calibration.statistics.bounds import lower_radius
from rrise.calibration.tables.scores import Scores

MIN_FRAMES = 40
"""Fewer tuning frames than this fit no map of their own."""

REPEATS = 2
"""How often the tuning split is halved anew."""

STEPS = (-1, 0, 1)
"""Deviations of the offset to come that each trial goes through: a calibration may find any of them."""


STAIRS = ("step", "staircase")
"""Names of the maps that issue given radii only."""


def map_names(tuning: Scores, guarantee: Guarantee, objective: Objective) -> Iterator[Tuple[str, bool]]:
    """Names of the maps worth trying, each with and without the surrogate's difficulty where it has one.

    A staircase takes a difficulty that there is: an offset of 0, where it does nothing, is among those that its thresholds are
    placed around.
    A selective threshold on the raw radius does not say who is issued where a difficulty scales the offset; the stairs, which
    it does not suit either, have a sequence of offsets instead.
    """
    maps: List[str] = ["clopper-pearson", "identity"]  # the first wins a tie
    if len(tuning) >= MIN_FRAMES:
        maps += [f"quantile {factor:g}" for factor in (0.5, 1.0, 2.0)]
    if len(objective.radii) == 1:
        maps.append("step")
    elif objective.radii and len(tuning) >= MIN_FRAMES:
        maps.append("staircase")
    for name in maps:
        if name != "staircase" or tuning.difficulty is None:
            yield name, False
        if tuning.difficulty is not None and (not guarantee.rules.among_issued or name in STAIRS):
            yield name, True


def signed_reference(scores: Scores, guarantee: Guarantee) -> np.ndarray:
    """Lower radius of the label before clipping, less rho for a guarded pass; float64 [n], -inf where no draw hit."""
    beta = float(guarantee.beta)
    lower = lower_radius(scores.label_counts(), scores.num_samples, scores.sigma, beta)
    if scores.reference is not None:
        # What is stored is smaller where beta was split over stages or looks, but holds nothing below 0.
        lower = np.where(lower > 0, label_reference(scores, beta), lower)
    return lower - (guarantee.guard.rho if guarantee.guard is not None else 0.0)


def fit_map(
    name: str,
    fit: Scores,
    guarantee: Guarantee,
    *,
    objective: Objective = MEAN_RADIUS,
    difficulty: bool = False,
    units: int = 0,
) -> RadiusMap:
    """The map of that name, fitted on the frames of `fit`.

    Args:
        name: "identity", "clopper-pearson", "step" at the one radius of the objective, "staircase" at its radii, or
            "quantile F" at level F alpha.
        difficulty, units: see `fit_staircase`; the others do not look at them.
    """
    kind, *numbers = name.split(" ")
    if kind == "identity":
        return IDENTITY
    if kind == "step":
        if len(objective.radii) != 1:
            raise CalibrationError(
                f"plan: a step map needs the radius that it issues, got {objective.describe()}"
            )
        return step_map(objective.radii[0])
    if kind == "staircase":
        return fit_staircase(fit, guarantee, objective, difficulty=difficulty, units=units)
    if kind == "clopper-pearson":
        return clopper_pearson_map(fit.sigma, int(np.median(fit.num_samples)), float(guarantee.beta))
    plugin, reference = np.float32(fit.sigma) * fit.probit, signed_reference(fit, guarantee)
    return quantile_map(plugin, reference, min(float(guarantee.alpha) * float(numbers[0]), 0.5), name)


def rank_share(guarantee: Guarantee, units: int) -> float:
    """Which share of that many units will lie at or below the offset; 1 - alpha where they are too few for a rank."""
    return 1.0 - allowed_share(guarantee, units)


def cross_fitted_radii(
    tuning: Scores,
    guarantee: Guarantee,
    name: str,
    *,
    difficulty: bool = False,
    objective: Objective = MEAN_RADIUS,
    num_calibration: int = 0,
    seed: int = 0,
    steps: Sequence[float] = STEPS,
) -> np.ndarray:
    """What a calibration of this kind would issue on the tuning frames, float32 [runs, n]. Not a promise.

    In each run every frame's map was fitted on the half of the clips that it does not belong to; the offset is that of
    its own half, at the rank's share of the calibration split to come and, by default, a deviation to either side.

    steps: by how many deviations the offset to come may be off, one run for each.
    """
    units = num_calibration or len(np.unique(tuning.clip))
    runs = []
    for halves in _divisions(tuning, seed):
        found = np.zeros((len(steps), len(tuning)), np.float32)
        for fit, trial in halves:
            half = tuning.take(fit)
            curve = fit_map(name, half, guarantee, objective=objective, difficulty=difficulty, units=units)
            try:
                rule = rule_for(curve, half, guarantee, objective, difficulty=difficulty, units=units)
            except CalibrationError:
                continue  # no threshold or offset works on this half: nothing is issued on the other
            found[:, trial] = _trial_radii(rule, tuning.take(trial), guarantee, units, steps)
        runs.append(found)
    return np.concatenate(runs)


def _divisions(tuning: Scores, seed: int) -> Iterator[List[Tuple[np.ndarray, np.ndarray]]]:
    """Pairs of masks (fit, trial), two for each halving of the clips; the whole split twice where it is too small."""
    clips = np.unique(tuning.clip)
    if len(tuning) < MIN_FRAMES or len(clips) < 4:
        everything = np.ones(len(tuning), bool)
        yield [(everything, everything)]
        return
    for repeat in range(REPEATS):
        shuffled = np.random.default_rng([seed, repeat]).permutation(clips)
        first = np.isin(tuning.clip, shuffled[: len(clips) // 2])
        yield [(first, ~first), (~first, first)]


@dataclass(frozen=True)
class Rule:
    """What a calibration is called with: a head without offset, and for selective stairs the offsets to be tested in turn."""

    head: CertificateHead
    offsets: Tuple[float, ...] = ()


def rule_for(
    curve: RadiusMap, fit: Scores, guarantee: Guarantee, objective: Objective, *, difficulty: bool, units: int
) -> Rule:
    """A map with what the selective kind needs beside it: a threshold, or offsets, from the frames of `fit`.

    Raises:
        CalibrationError: no threshold or offset works.
    """
    head = CertificateHead(fit.sigma, curve, difficulty=difficulty)
    if not guarantee.rules.among_issued:
        return Rule(head)
    if curve.radii:
        return Rule(head, offset_grid(fit, guarantee, curve, difficulty=difficulty))
    threshold = choose_threshold(fit, guarantee, curve, radius=objective.radius, num_calibration=units)
    return Rule(CertificateHead(fit.sigma, curve, threshold=threshold))


def _trial_radii(
    rule: Rule, trial: Scores, guarantee: Guarantee, units: int, steps: Sequence[float]
) -> np.ndarray:
    """Radii of the trial half for each of `steps`, float32 [steps, m]."""
    head, radii = rule.head, []
    if rule.offsets:
        for step in steps:
            done = head.with_offset((_sequence_offset(rule, trial, guarantee, units, step),))
            radii.append(done.radius(trial.probit, trial.label, trial.difficulty))
        return np.stack(radii)
    excess = excesses(trial, head, guarantee)
    groups = guarantee.rules.groups(trial.label, len(trial.class_names))
    for step in steps:
        offsets = [_offset(excess, group, head, trial, guarantee, units, step) for group in groups]
        done = head.with_offset(offsets)
        radii.append(done.radius(trial.probit, trial.label, trial.difficulty))
    return np.stack(radii)


def _offset(
    excess: np.ndarray,
    group: np.ndarray,
    head: CertificateHead,
    trial: Scores,
    guarantee: Guarantee,
    units: int,
    step: float,
) -> float:
    """Offset of one group at the share that its part of the calibration split will have, `step` deviations off."""
    among, expected = guarantee.rules.scores(excess[group], trial.clip[group]), units * group.mean()
    if head.threshold is not None:
        above = head.raw_radius(trial.probit) > np.float32(head.threshold)
        among, expected = excess[above], units * above.mean()
    if not len(among) or (guarantee.rules.parted and guarantee.rank(round(expected)) is None):
        return WITHHELD
    share = rank_share(guarantee, round(expected))
    deviation = math.sqrt(max(share * (1 - share), 1e-12) * (1 / len(among) + 1 / expected))
    place = min(max(math.ceil(len(among) * (share + step * deviation)), 1), len(among))
    offset = float(np.sort(among)[place - 1])
    return WITHHELD if head.threshold is not None and offset > head.threshold else offset


def _sequence_offset(rule: Rule, trial: Scores, guarantee: Guarantee, units: int, step: float) -> float:
    """The offset at which a fixed sequence of tests will stop, where shares of errors lie `step` deviations off."""
    reference, found = reference_for(trial, guarantee), WITHHELD
    for offset in rule.offsets:
        radius = rule.head.with_offset((offset,)).radius(trial.probit, trial.label, trial.difficulty)
        issued = int((radius > 0).sum())
        expected = round(issued * units / len(trial))
        if not issued or guarantee.rank(expected) is None:
            break
        allowed = allowed_share(guarantee, expected)
        deviation = math.sqrt(max(allowed * (1 - allowed), 1e-12) * (1 / issued + 1 / expected))
        if float((radius > reference).sum()) / issued + step * deviation > allowed:
            break
        found = offset
    return found
