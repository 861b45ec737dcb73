"""Do live frames still look like the calibration frames? A test without labels that may be looked at after every frame.

Each live frame gets conformal p-values against a fixed set of reference frames, one for its distance from their centre and two
for each feature, too high and too low; a betting martingale grows when any of them is small too often. The distance sees what
is odd in any way; a feature alone sees a slight and constant shift of it, which the distance drowns in all the others. Both
corrections that this needs are made: the reference set is fixed, so that p-values computed from it are not independent of
each other, and a change may come late, after long boredom.

Sources: Vovk, Gammerman and Shafer 2005, chapter 7 (conformal test martingales); Ville 1939; the mixture over starting
times follows the Shiryaev-Roberts e-detectors of Shin, Ramdas and Rinaldo 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from rrise.calibration.errors import CalibrationError

POWERS = (0.1, 0.2, 0.35, 0.5, 0.7)
"""The bets e p^(e - 1): small powers for rare extremes, large ones for a slight and constant shift."""

LEAST_FRAMES = 100
_BISECTIONS = 50


@dataclass(frozen=True)
class DriftReference:
    """What frames like the calibration frames look like, in d features.

    Attributes:
        mean: float64 [d]; precision: float64 [d, d]; fitted on one half of the reference frames.
        scores: float64 [m], squared Mahalanobis distances of the other half, descending.
        delta: probability, over the reference frames, that the p-values are not valid.
        features: float64 [d, n], each feature of all frames, ascending; [0, 0] in a reference that knows the distance only, as
            those of release 0.1 do.
    """

    mean: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    delta: float
    features: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @classmethod
    def fit(cls, features: np.ndarray, *, delta: float = 0.005, seed: int = 0) -> "DriftReference":
        """Fit on the features of independent frames.

        Args:
            features: float64 [n, d], n >= 100; one frame of each clip.
            delta: see above.

        Raises:
            CalibrationError: too few frames, numbers that are not finite, or delta outside (0, 1).
        """
        values = np.asarray(features, np.float64)
        if (
            values.ndim != 2
            or len(values) < LEAST_FRAMES
            or not np.isfinite(values).all()
            or not 0 < delta < 1
        ):
            raise CalibrationError(
                f"drift reference: got features {values.shape} and delta {delta}, expected at least {LEAST_FRAMES} frames,"
                " finite numbers, and delta between 0 and 1"
            )
        shuffled = values[np.random.default_rng(seed).permutation(len(values))]
        half = len(shuffled) // 2
        mean, spread = shuffled[:half].mean(axis=0), np.atleast_2d(np.cov(shuffled[:half], rowvar=False))
        # A ridge of a thousandth: a feature that never varies must not make every distance infinite.
        ridge = 1e-3 * np.diag(spread).mean() + 1e-12
        precision = np.linalg.inv(spread + ridge * np.eye(len(mean)))
        fitted = cls(mean, precision, np.zeros(0), delta)
        scores = np.sort(fitted.distances(shuffled[half:]))[::-1]
        # Nothing is fitted to a feature alone, so that all frames can be compared with.
        return cls(mean, precision, scores, delta, np.sort(values, axis=0).T.copy())

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance of frames' features [n, d]; infinite where they are not finite."""
        away = np.asarray(features, np.float64) - self.mean
        sound = np.isfinite(away).all(axis=1)
        away[~sound] = 0.0
        found = ((away @ self.precision) * away).sum(axis=1)
        return np.where(sound & np.isfinite(found), found, math.inf)

    @property
    def questions(self) -> int:
        """How many p-values a frame gets."""
        return 1 + 2 * len(self.features)

    def p_values(self) -> "PValues":
        """The p-values of this reference set, its table computed once."""
        return PValues(self)

    def test(self, memory: "Optional[Dict[str, Any]]" = None) -> "DriftTest":
        """A test that fits these p-values; `memory`: what `DriftTest.martingale` remembered."""
        bets = len(POWERS) * self.questions
        return DriftTest(
            SleepingMartingale(bets) if memory is None else SleepingMartingale.from_json(memory, bets)
        )

    def to_json(self) -> Dict[str, Any]:
        return {
            "mean": self.mean.tolist(),
            "precision": self.precision.tolist(),
            "scores": self.scores.tolist(),
            "delta": self.delta,
            "features": self.features.tolist(),
        }

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "DriftReference":
        """Raises: CalibrationError: an entry is missing or impossible."""
        try:
            arrays = [np.asarray(value[name], np.float64) for name in ("mean", "precision", "scores")]
            delta = float(value["delta"])
            features = np.asarray(value.get("features", []), np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"drift reference: {error!r}; fit it again") from error
        mean, precision, scores = arrays
        shapes = (
            mean.ndim == scores.ndim == 1 and precision.shape == (len(mean), len(mean)) and len(scores) > 0
        )
        alone = features if features.size else np.zeros((0, 0))
        shapes = shapes and alone.ndim == 2 and len(alone) in (0, len(mean))
        if not (shapes and all(np.isfinite(array).all() for array in (*arrays, alone)) and 0 < delta < 1):
            raise CalibrationError("drift reference: shapes or numbers are impossible; fit it again")
        return cls(mean, precision, np.sort(scores)[::-1], delta, np.sort(alone, axis=1))


class PValues:
    """p-values against a fixed reference set: of the distance, and of each feature being too high and too low.

    With k reference scores at or above the new one, the p-value is an upper confidence bound on the probability of
    such a score, simultaneous over all k: exact binomial limits at a grid of k, by Bonferroni. Half of delta is the
    distance's, the other half is shared by the features' sides.

    **Guarantee**: with probability at least 1 - delta over the reference frames, P(p <= u) <= u for every one of them, every u
    and every new frame like them, whatever came before it. The p-values of one frame depend on each other.
    """

    def __init__(self, reference: DriftReference) -> None:
        self._reference = reference
        sides = reference.questions - 1
        self._ascending = reference.scores[::-1]
        share = reference.delta / 2 if sides else reference.delta
        self._bounds = _upper_bounds(len(reference.scores), share)
        self._sides: "np.ndarray | None" = None
        if sides:
            self._sides = _upper_bounds(reference.features.shape[1], reference.delta / 2 / sides)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """p-values float64 [questions] of one frame's features [d].

        The distance's, those of high features, those of low ones; the smallest possible where they are not finite.
        """
        return np.asarray(self.of_frames(np.asarray(features, np.float64)[None])[0])

    def of_frames(self, features: np.ndarray) -> np.ndarray:
        """p-values float64 [n, questions] of features [n, d]."""
        scores = self._reference.distances(features)
        found = self._bounds[len(self._ascending) - np.searchsorted(self._ascending, scores, side="left")]
        if self._sides is None:
            return found[:, None]
        sides = [
            self.of_feature(place, values) for place, values in enumerate(np.asarray(features, np.float64).T)
        ]
        return np.stack([found, *(high for high, _ in sides), *(low for _, low in sides)], axis=1)

    def of_feature(self, place: int, values: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """p-values, high and low, of values [...] of the feature at `place`."""
        assert self._sides is not None
        row, odd = self._reference.features[place], ~np.isfinite(values)
        above = row.size - np.searchsorted(row, values, side="left")
        below = np.searchsorted(row, values, side="right")
        return self._sides[np.where(odd, 0, above)], self._sides[np.where(odd, 0, below)]


def _upper_bounds(count: int, delta: float) -> np.ndarray:
    """bounds[k] for k = 0..count: P(new score >= s) <= bounds[#scores >= s], simultaneously, except with delta."""
    grid = [0]
    while grid[-1] < count:
        grid.append(min(max(grid[-1] + 1, int(grid[-1] * 1.3)), count))
    level = math.log(delta / (len(grid) - 1)) if len(grid) > 1 else math.log(delta)
    bounds = np.ones(count + 1)
    for below, k in zip([-1, *grid], grid):
        if k < count:
            bounds[below + 1 : k + 1] = _binomial_limit(k, count, level)
    return bounds


def _binomial_limit(hits: int, trials: int, log_level: float) -> float:
    """The probability b with P(Binomial(trials, b) <= hits) = exp(log_level), rounded up by the bisection."""
    counts = np.arange(hits + 1)
    logs = np.array(
        [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts]
    )
    low, high = hits / trials, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        terms = (
            logs + counts * math.log(middle) + (trials - counts) * math.log1p(-middle)
            if middle < 1
            else logs - np.inf
        )
        if np.logaddexp.reduce(terms) > log_level:
            low = middle
        else:
            high = middle
    return high


class SleepingMartingale:
    """A mixture of bets and of the times at which betting begins.

    The share 1 / (s (s + 1)) of the stake sleeps until observation s. So a change after t observations costs a factor
    of about t^2 and not of everything that was lost in the t before.

    **Guarantee**: where each bet's factors have mean at most 1 given the past, the wealth ever reaches 1 / alpha with
    probability at most alpha (Ville).
    """

    def __init__(self, bets: int) -> None:
        self.seen = 0
        self._log_awake = np.full(bets, -np.inf)

    def update(self, log_factors: "Union[Sequence[float], np.ndarray]") -> None:
        """One observation: the logarithm of the factor by which each bet grows."""
        self.seen += 1
        joining = -math.log(self.seen) - math.log(self.seen + 1)
        self._log_awake = np.logaddexp(self._log_awake, joining) + np.asarray(log_factors, np.float64)

    @property
    def log_wealth(self) -> float:
        """Logarithm of the present wealth, which started at log 1 = 0."""
        asleep = -math.log(self.seen + 1)
        mean = np.logaddexp.reduce(self._log_awake) - math.log(len(self._log_awake))
        return float(np.logaddexp(mean, asleep))

    @staticmethod
    def course(log_factors: np.ndarray) -> np.ndarray:
        """`log_wealth` after each of n observations from the beginning, float64 [n], of log_factors [n, bets].

        The same numbers as by `update`, up to rounding, without a step of Python for each: what joined at s has grown by the
        factors since, so that what is awake at t is the product of all t factors times the sum of 1 / (s (s + 1)) over the
        product of those before s.
        """
        logs = np.asarray(log_factors, np.float64)
        seen = np.arange(1, len(logs) + 1)
        joining = -np.log(seen) - np.log(seen + 1)
        grown = np.cumsum(logs, axis=0)
        awake = grown + np.logaddexp.accumulate(joining[:, None] - (grown - logs), axis=0)
        mean = np.logaddexp.reduce(awake, axis=1) - math.log(logs.shape[1])
        return np.asarray(np.logaddexp(mean, -np.log(seen + 1)))

    def to_json(self) -> Dict[str, Any]:
        """JSON has no infinity: a bet without anything awake is null."""
        return {
            "seen": self.seen,
            "log_awake": [float(x) if np.isfinite(x) else None for x in self._log_awake],
        }

    @classmethod
    def from_json(cls, value: Dict[str, Any], bets: int) -> "SleepingMartingale":
        """Raises: CalibrationError: malformed, or of another number of bets."""
        try:
            restored = cls(bets)
            restored.seen = int(value["seen"])
            awake = np.array([-np.inf if x is None else float(x) for x in value["log_awake"]])
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"martingale: {error!r}; reset the monitor") from error
        if awake.shape != (bets,) or np.isnan(awake).any() or (awake == np.inf).any() or restored.seen < 0:
            raise CalibrationError(
                f"martingale: got {len(awake)} bets after {restored.seen}, expected {bets}; reset the monitor"
            )
        restored._log_awake = awake
        return restored


class DriftTest:
    """The martingale of p-values: growing wealth says that frames no longer look like the reference frames.

    Every power bets on every p-value with an equal share of the stake; made by `DriftReference.test`.

    **Guarantee**: while live frames are independent draws like the reference frames, the wealth ever reaches
    1 / alpha with probability at most alpha + delta. Feed it one frame of each clip, or one per decorrelation
    interval: on correlated frames the promise is void.
    *Proof.* Leave out the probability delta that the p-values are not valid. For a valid one, E[e p^(e - 1)] <= 1, given
    all frames before, since p^(e - 1) falls in p and p is at least as large as a uniform number in distribution. So what each
    bet owns is a nonnegative supermartingale, and so is the sum of all, however the p-values of one frame hang
    together. It starts at 1, and Ville's inequality bounds its maximum.
    """

    def __init__(self, martingale: SleepingMartingale) -> None:
        self.martingale = martingale

    def update(self, p_values: "Union[Sequence[float], np.ndarray]") -> None:
        """The p-values in (0, 1] of one frame, as many as the martingale has bets for each power."""
        logs = np.log(np.asarray(p_values, np.float64))[:, None]
        powers = np.array(POWERS)
        self.martingale.update((np.log(powers) + (powers - 1.0) * logs).ravel())

    @property
    def log_wealth(self) -> float:
        return self.martingale.log_wealth


class WrongRateTest:
    """Are more than `error` of the certificates wrong? From audits, whenever there is one.

    Bets on Bernoulli rates above `error`: a wrong certificate multiplies a share by q / error, a right one by
    (1 - q) / (1 - error).

    **Guarantee**: while each audited certificate is wrong with probability at most `error` given the past, the wealth
    ever reaches 1 / alpha with probability at most alpha.
    """

    def __init__(self, error: float) -> None:
        if not 0 < error < 1:
            raise CalibrationError(f"error: got {error}, expected a number strictly between 0 and 1")
        rates = [error + (1 - error) * share for share in (0.05, 0.15, 0.4)] + [
            min(2 * error, (1 + error) / 2)
        ]
        self._logs: Tuple[Tuple[float, ...], Tuple[float, ...]] = (
            tuple(math.log((1 - rate) / (1 - error)) for rate in rates),
            tuple(math.log(rate / error) for rate in rates),
        )
        self.bets = len(rates)
        self.martingale = SleepingMartingale(self.bets)

    def update(self, wrong: bool) -> None:
        """One audited certificate. Undecided audits count as right: that only makes the test slower."""
        self.martingale.update(self._logs[bool(wrong)])

    @property
    def log_wealth(self) -> float:
        return self.martingale.log_wealth
