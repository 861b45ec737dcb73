"""Scores of calibration frames: by how much the raw radius exceeds the reference, exactly in the deployed arithmetic."""

from __future__ import annotations

from typing import Optional

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import guarded_reference
from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.statistics.bounds import round_down
from rrise.calibration.tables.scores import Scores

LEAST = np.float32(-1e4)
"""Least score of a frame; a radius in [0, 1] pixel units is far smaller for images below 30 million pixels."""


def label_reference(scores: Scores, beta: float) -> np.ndarray:
    """Reference radius of the surrogate's own label, float32 [n], rounded down and clipped at 0.

    What the table stores for this beta is taken as it is; else it is computed from the counts, which needs scipy.

    Raises:
        CalibrationError: another beta is asked for, and the stored radii are smaller than the counts prove at theirs:
            they were made more careful for a reason that the counts do not show, such as draws in stages, or N raised after
            looking.
    """
    if scores.reference is None:
        return scores.computed_reference(beta)
    if scores.beta == beta:
        return scores.reference
    if scores.shares_beta():
        raise CalibrationError(
            f"reference radii: got smaller ones than the counts prove at their beta {scores.beta}, so beta cannot be "
            f"changed to {beta} (it was split over stages or looks); keep beta {scores.beta}, or draw new references"
        )
    return scores.computed_reference(beta)


def proved_reference(scores: Scores, beta: float) -> np.ndarray:
    """`label_reference`, but never above what the counts prove at beta (needs scipy): for a check that trusts no stored radius.

    Counts alone are not enough either: they do not show that beta was split over stages or looks.
    """
    proved: np.ndarray = np.minimum(label_reference(scores, beta), scores.computed_reference(beta))
    return proved


def smallest_offsets(
    raw: np.ndarray, reference: np.ndarray, difficulty: Optional[np.ndarray] = None
) -> np.ndarray:
    """Score of each frame: the smallest float32 q with fl(raw - q u) <= reference in the deployed arithmetic.

    Args:
        raw: float32 [n], raw radius; finite.
        reference: float32 [n].
        difficulty: float32 [n] > 0, or None for u = 1.

    Returns:
        float32 [n]; infinity where no finite q is enough, since u is so tiny. Rounding the exact quotient up would not
        do: fl(raw - fl(q u)) may still exceed the reference.
    """
    raw, reference = np.asarray(raw, np.float32), round_down(reference)
    scale = np.ones_like(raw) if difficulty is None else np.asarray(difficulty, np.float32)
    # fl(raw - fl(q u)) never increases with q, so bisect over the float32 numbers in their order as integers.
    low = np.full(raw.shape, _to_order(np.float32(-np.finfo(np.float32).max)), np.int64)
    high = np.full(raw.shape, _to_order(np.float32(np.inf)), np.int64)
    with np.errstate(over="ignore"):
        while (low < high).any():
            middle = (low + high) // 2
            enough = raw - _from_order(middle) * scale <= reference
            high = np.where(enough, middle, high)
            low = np.where(enough, low, middle + 1)
    return _from_order(high)


def _to_order(value: np.float32) -> int:
    bits = int(np.asarray(value, np.float32).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _from_order(order: np.ndarray) -> np.ndarray:
    magnitude: np.ndarray = np.abs(order).astype(np.int32).view(np.float32)
    return np.where(order < 0, -magnitude, magnitude)


def reference_for(scores: Scores, guarantee: Guarantee) -> np.ndarray:
    """What the radius of each frame is compared with, float32 [n]: `label_reference`, less rho for a guarded pass."""
    reference = label_reference(scores, float(guarantee.beta))
    return reference if guarantee.guard is None else guarded_reference(reference, guarantee.guard.rho)


def excesses(scores: Scores, head: CertificateHead, guarantee: Guarantee) -> np.ndarray:
    """Score of every frame of a table for the map and difficulty of `head`, float32 [n]: see `smallest_offsets`.

    For a staircase, the smallest q for which no radius above the reference is issued, that is, for which the first such
    step is no longer reached; `LEAST` where the reference reaches the last step, which then may be issued in any case.
    """
    difficulty = scores.difficulty if head.difficulty else None
    raw, reference = head.raw_radius(scores.probit), reference_for(scores, guarantee)
    if not head.map.radii:
        return smallest_offsets(raw, reference, difficulty)
    radii, thresholds = np.array(head.map.radii, np.float32), np.array(head.map.thresholds, np.float32)
    first = np.searchsorted(radii, reference, side="right")  # the first step above the reference
    # Thresholds never decrease, so who does not reach that step reaches none above it.
    short = np.nextafter(thresholds, np.float32(-np.inf))[np.minimum(first, len(radii) - 1)]
    found = smallest_offsets(raw, short, difficulty)
    return np.where(first == len(radii), LEAST, np.maximum(found, LEAST)).astype(np.float32)


def one_frame_per_clip(scores: Scores, seed: int) -> Scores:
    """One uniformly drawn frame of each clip, since frames of one clip are not independent (calibration/README.md).

    The draw depends on the frames and the seed, not on the order of the rows.
    """
    chosen = independent_frames(scores, seed)
    return scores if chosen.all() else scores.take(np.flatnonzero(chosen))


def independent_frames(scores: Scores, seed: int) -> np.ndarray:
    """Which frames are those of `one_frame_per_clip`, bool [n]: a row of each clip, whatever copies of it other rows hold."""
    by_digest = np.argsort(scores.digest, kind="stable")
    order = by_digest[np.random.default_rng(seed).permutation(len(scores))]
    _, first = np.unique(scores.clip[order], return_index=True)
    chosen = np.zeros(len(scores), bool)
    chosen[order[first]] = True
    return chosen
