"""How good certificates are: certified accuracy, share issued, audit verdicts and the surrogate's own error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from rrise.calibration.statistics.bounds import certified_radius, clopper_pearson_lower, clopper_pearson_upper
from rrise.calibration.tables.scores import Scores


def certified_right(
    label: np.ndarray, radius: np.ndarray, target: np.ndarray, radii: Sequence[float]
) -> np.ndarray:
    """Which frames have the right label and a radius above 0 and at least r; bool [R, n]."""
    right = (np.asarray(label) == np.asarray(target)) & (np.asarray(radius) > 0)
    return np.array([right & (radius >= r) for r in radii], bool).reshape(len(radii), len(right))


def certified_accuracy(
    label: np.ndarray, radius: np.ndarray, target: np.ndarray, radii: Sequence[float]
) -> np.ndarray:
    """Share of frames, abstentions included, with the right label and a radius above 0 and at least r; float64 [R]."""
    return np.asarray(certified_right(label, radius, target, radii).mean(axis=1))


def issued_share(radius: np.ndarray, radii: Sequence[float]) -> np.ndarray:
    """Share of frames with a radius above 0 and at least r, whatever their label; float64 [R]."""
    return np.array([np.mean((radius > 0) & (radius >= r)) for r in radii])


@dataclass(frozen=True)
class AuditVerdict:
    """Certificates judged by independent Monte Carlo: wrong, right and undecided add up to issued."""

    frames: int
    issued: int
    wrong: int
    right: int
    undecided: int

    @property
    def wrong_at_most(self) -> float:
        """Share of frames whose certificate may be wrong: wrong and undecided together."""
        return (self.wrong + self.undecided) / max(self.frames, 1)


def audit(scores: Scores, radius: np.ndarray, level: float = 0.001) -> AuditVerdict:
    """Judge issued radii by the draws in `scores.counts`, which must be independent of the references.

    A certificate is wrong when it exceeds the radius at the upper Clopper-Pearson bound, right when it does not
    exceed the radius at the lower bound, and undecided between; each verdict errs with probability at most `level`.
    """
    hits, draws = scores.label_counts(), scores.num_samples
    issued = np.asarray(radius) > 0
    above = radius > certified_radius(clopper_pearson_upper(hits, draws, level), scores.sigma)
    below = radius <= certified_radius(clopper_pearson_lower(hits, draws, level), scores.sigma)
    wrong, right = int((issued & above).sum()), int((issued & below).sum())
    return AuditVerdict(len(scores), int(issued.sum()), wrong, right, int(issued.sum()) - wrong - right)


def label_agreement(scores: Scores) -> float:
    """Share of frames whose surrogate label is the most frequent Monte Carlo class."""
    return float(np.mean(scores.label == np.argmax(scores.counts, axis=1)))


def probit_rmse(scores: Scores) -> float:
    """Root mean square of the surrogate's probit minus the Monte Carlo probit of the same label.

    Both are clipped to the range that the counts can resolve, Phi^-1 of (n_c + 1/2) / (N + 1), so that saturated
    frames weigh neither nothing nor infinitely.
    """
    share = (scores.label_counts() + 0.5) / (scores.num_samples.astype(np.float64) + 1.0)
    limit = certified_radius((scores.num_samples + 0.5) / (scores.num_samples.astype(np.float64) + 1.0), 1.0)
    difference = np.clip(scores.probit.astype(np.float64), -limit, limit) - certified_radius(share, 1.0)
    return float(np.sqrt(np.mean(difference**2)))
