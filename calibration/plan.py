"""Everything that is chosen before calibration, on the tuning split alone: map, difficulty, beta, selective rule.

A choice made on the calibration split would void its promise; made here it costs nothing but the tuning frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from calibration.bounds import lower_radius
from calibration.digests import PathLike
from calibration.errors import CalibrationError
from calibration.files import read_json, reading, write_json
from calibration.focus import focus_map
from calibration.guarantee import Guarantee
from calibration.head import CertificateHead
from calibration.maps import IDENTITY, RadiusMap, clopper_pearson_map
from calibration.offsets import clip_maxima, excesses
from calibration.quantile import quantile_map
from calibration.scores import Scores
from calibration.selective import choose_threshold

BETAS = (Fraction(1, 50), Fraction(1, 20), Fraction(1, 10), Fraction(1, 5))
"""Miss probabilities that `choose_plan` tries where it may choose beta."""

MIN_FRAMES = 40
"""Fewer tuning frames than this choose nothing: the Clopper-Pearson map, which needs no data, is taken."""


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
            "format": "rrise-plan/1",
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
            if value["format"] != "rrise-plan/1":
                raise CalibrationError(f"got format {value['format']!r}, expected 'rrise-plan/1'")
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
    radii, rows, best = default_radii(tuning.sigma), [], None
    for beta in betas or (guarantee.beta,):
        asked = replace(guarantee, beta=beta)
        share = _rank_share(asked, tuning, num_calibration)
        for name, difficulty in _names(tuning, asked, radius):
            row = _tried(tuning, asked, name, difficulty, share, radius, radii, seed, num_calibration)
            rows.append(row)
            if best is None or row.objective > best[0].objective:
                best = (row, asked)
    assert best is not None
    winner, asked = best
    curve = _fitted(winner.name, tuning, asked, radius, num_calibration)
    threshold = None
    if guarantee.kind == "selective":
        threshold = choose_threshold(tuning, asked, curve, radius=radius, num_calibration=num_calibration)
    return Plan(asked, curve, winner.difficulty, threshold, radius, radii, tuple(rows))


def _check(tuning: Scores, radius: Optional[float]) -> None:
    if tuning.split != "tuning":
        raise CalibrationError(
            f"plan: got scores of split {tuning.split!r}, expected 'tuning'; score that split"
        )
    if radius is not None and not (math.isfinite(radius) and radius > 0):
        raise CalibrationError(f"plan: got radius {radius}, expected a positive radius in [0, 1] pixel units")
    if not len(tuning):
        raise CalibrationError("plan: got no tuning frames")


def _rank_share(guarantee: Guarantee, tuning: Scores, num_calibration: int) -> float:
    """Which share of the units will lie at or below the offset, at the size of the calibration split."""
    units = num_calibration or len(np.unique(tuning.clip))
    rank = guarantee.rank(units)
    if rank is None:
        # The tuning split may be smaller than what a calibration needs; then the level itself guides the choice.
        return float(1 - guarantee.alpha)
    return rank / units


def _names(tuning: Scores, guarantee: Guarantee, radius: Optional[float]) -> Iterator[Tuple[str, bool]]:
    maps: List[str] = ["clopper-pearson", "identity"]  # the first wins a tie
    if len(tuning) >= MIN_FRAMES:
        maps += [f"quantile {factor:g}" for factor in (0.5, 1.0, 2.0)]
    for name in maps:
        yield name, False
        if tuning.difficulty is not None and guarantee.kind != "selective":
            yield name, True
    if radius is not None and len(tuning) >= MIN_FRAMES and guarantee.kind != "selective":
        for factor in (0.05, 0.5):
            for lift in (0.5, 1.5):
                yield f"focus {factor:g} lift {lift:g}", False


def signed_reference(scores: Scores, guarantee: Guarantee) -> np.ndarray:
    """Lower radius of the label before clipping, less rho for a guarded pass; float64 [n], -inf where no draw hit."""
    lower = lower_radius(scores.label_counts(), scores.num_samples, scores.sigma, float(guarantee.beta))
    return lower - (guarantee.guard.rho if guarantee.guard is not None else 0.0)


def _fitted(
    name: str, fit: Scores, guarantee: Guarantee, radius: Optional[float], num_calibration: int
) -> RadiusMap:
    kind, *numbers = name.split(" ")
    alpha = float(guarantee.alpha)
    if kind == "identity":
        return IDENTITY
    if kind == "clopper-pearson":
        return clopper_pearson_map(fit.sigma, int(np.median(fit.num_samples)), float(guarantee.beta))
    plugin = np.float32(fit.sigma) * fit.probit
    reference = signed_reference(fit, guarantee)
    level = min(alpha * float(numbers[0]), 0.5)
    if kind == "quantile":
        return quantile_map(plugin, reference, level, name)
    assert radius is not None
    # The rank leaves a little less than alpha; so does this map, or its offset would lower it below the radius.
    spent = min(_rank_margin(guarantee, num_calibration or len(fit)), alpha)
    return focus_map(
        plugin,
        reference,
        radius,
        spent,
        base_level=level,
        lift=float(numbers[2]),
        num_calibration=num_calibration or len(fit),
    )


def _rank_margin(guarantee: Guarantee, units: int) -> float:
    rank = guarantee.rank(units)
    return float(guarantee.alpha) if rank is None else (units - rank) / units


def _tried(
    tuning: Scores,
    guarantee: Guarantee,
    name: str,
    difficulty: bool,
    share: float,
    radius: Optional[float],
    radii: Tuple[float, ...],
    seed: int,
    num_calibration: int,
) -> Candidate:
    """Fit on one half of the clips, take the offset and count on the other, and the other way round."""
    issued, objective = np.zeros(len(radii)), 0.0
    halves = list(_halves(tuning, seed))
    for fit, trial in halves:
        head = CertificateHead(
            tuning.sigma, _fitted(name, fit, guarantee, radius, num_calibration), difficulty=difficulty
        )
        excess = excesses(trial, head, guarantee)
        if guarantee.kind == "whole-clip":
            excess = clip_maxima(excess, trial.clip)
        offsets = _likely_offsets(excess, share, num_calibration or len(np.unique(tuning.clip)))
        for offset in offsets:
            found = head.with_offset((offset,)).radius(trial.probit, trial.label, trial.difficulty)
            weight = 1 / (len(halves) * len(offsets))
            issued += [float(np.mean(found >= r)) * weight for r in radii]
            objective += float(np.mean(found >= radius) if radius is not None else np.mean(found)) * weight
    text = f"{guarantee.beta.numerator}/{guarantee.beta.denominator}"
    return Candidate(name, difficulty, text, objective, tuple(float(value) for value in issued))


def _likely_offsets(excess: np.ndarray, share: float, units: int) -> List[float]:
    """The offset at the rank's share, and those a deviation below and above: calibration may find any of them."""
    ordered = np.sort(excess)
    deviation = math.sqrt(max(share * (1 - share), 1e-12) * (1 / len(excess) + 1 / units))
    places = [math.ceil(len(excess) * (share + step * deviation)) for step in (-1, 0, 1)]
    return [float(ordered[min(max(place, 1), len(excess)) - 1]) for place in places]


def _halves(tuning: Scores, seed: int, repeats: int = 2) -> Iterable[Tuple[Scores, Scores]]:
    """Pairs (fit, trial) of halves by clip; the whole split twice where it is too small to be halved."""
    clips = np.unique(tuning.clip)
    if len(tuning) < MIN_FRAMES or len(clips) < 4:
        return [(tuning, tuning)]
    pairs = []
    for repeat in range(repeats):
        shuffled = np.random.default_rng([seed, repeat]).permutation(clips)
        first = np.isin(tuning.clip, shuffled[: len(clips) // 2])
        pairs += [(tuning.take(first), tuning.take(~first)), (tuning.take(~first), tuning.take(first))]
    return pairs
