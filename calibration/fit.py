"""From scores to the offset: the k-th smallest float32 excess of the raw radius over the reference radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterable, Optional, Union

import numpy as np

from calibration.bounds import reference_radius
from calibration.errors import CalibrationError
from calibration.guarantee import Guarantee
from calibration.head import CertificateHead
from calibration.maps import IDENTITY, RadiusMap
from calibration.record import Calibration
from calibration.scores import Scores


def label_reference(scores: Scores, beta: float) -> np.ndarray:
    """Reference radius of the surrogate's own label, float32 [n], rounded down and clipped at 0.

    What the table stores for this beta is taken as it is; else it is computed from the counts, which needs scipy.
    """
    if scores.reference is not None and scores.beta == beta:
        return scores.reference
    return reference_radius(scores.label_counts()[:, None], scores.num_samples, scores.sigma, beta)[:, 0]


def smallest_offsets(
    raw: np.ndarray, reference: np.ndarray, difficulty: Optional[np.ndarray] = None
) -> np.ndarray:
    """Score of each frame: the smallest float32 q with fl(raw - q u) <= reference in the deployed arithmetic.

    Args:
        raw: float32 [n], raw radius; finite.
        reference: float32 [n], >= 0.
        difficulty: float32 [n] > 0, or None for u = 1.

    Returns:
        float32 [n]. Rounding the exact difference up would not do: fl(raw - q) may still exceed the reference.
    """
    raw, reference = np.asarray(raw, np.float32), np.asarray(reference, np.float32)
    scale = np.ones_like(raw) if difficulty is None else np.asarray(difficulty, np.float32)
    # fl(raw - fl(q u)) never increases with q, so bisect over the float32 numbers in their order as integers.
    low = np.full(raw.shape, _to_order(np.float32(-np.finfo(np.float32).max)), np.int64)
    high = np.full(raw.shape, _to_order(np.float32(np.finfo(np.float32).max)), np.int64)
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
    magnitude = np.abs(order).astype(np.int32).view(np.float32)
    return np.where(order < 0, -magnitude, magnitude)


def calibrate(
    scores: Scores,
    guarantee: Guarantee,
    map: RadiusMap = IDENTITY,
    *,
    training_digests: Iterable[Union[str, bytes]] = (),
    attempt: int = 1,
    seed: int = 0,
) -> Calibration:
    """Choose the offset of one execution from its scores on the calibration split.

    Args:
        scores: table of split "calibration". Where clips have several frames, one is drawn per clip with `seed`.
        guarantee: what is promised.
        map: chosen on other frames than these.
        training_digests: digests of every frame that the surrogate, the map or the quantiser has seen.
        attempt: how often this calibration split has been used, this time included; it is recorded.

    Returns:
        The record. With too few frames its offset is infinite: it issues nothing and `message` says how many are needed.

    Raises:
        CalibrationError: another split, frames that were trained on, or frames that occur twice.

    **Guarantee**: `guarantee.sentence()`. Source: RRISE (arXiv 2606.02876); the Monte Carlo factor in docs/guarantee.md.
    """
    if scores.split != "calibration":
        raise CalibrationError(
            f"calibrate: got scores of split {scores.split!r}, expected 'calibration'; score that split"
        )
    _refuse_seen(scores, training_digests)
    chosen = one_frame_per_clip(scores, seed)
    head = CertificateHead(scores.sigma, map, difficulty=scores.difficulty is not None)
    excess = smallest_offsets(
        head.raw_radius(chosen.probit), label_reference(chosen, float(guarantee.beta)), chosen.difficulty
    )
    rank = guarantee.rank(len(chosen))
    offset = math.inf if rank is None else float(np.sort(excess)[rank - 1])
    return Calibration(
        head=head.with_offset((offset,)),
        guarantee=guarantee,
        execution=scores.execution,
        num_frames=len(chosen),
        rank=rank,
        calibration_digest=scores.frames_digest,
        base_digest=scores.base_digest,
        num_samples=(int(scores.num_samples.min()), int(scores.num_samples.max())),
        attempt=attempt,
    )


def _refuse_seen(scores: Scores, training_digests: Iterable[Union[str, bytes]]) -> None:
    if not len(scores):
        raise CalibrationError("calibrate: got no frames, expected a calibration split")
    unique, times = np.unique(scores.digest, return_counts=True)
    if (times > 1).any():
        raise CalibrationError(
            f"calibrate: {int((times > 1).sum())} frames occur more than once, first {unique[times > 1][0].decode()[:12]}; "
            "frames must be independent draws, so remove the copies"
        )
    trained = {digest.encode() if isinstance(digest, str) else bytes(digest) for digest in training_digests}
    seen = set(unique.tolist()) & trained
    if seen:
        raise CalibrationError(
            f"calibrate: {len(seen)} calibration frames were used in training or tuning, first {sorted(seen)[0].decode()[:12]}; "
            "make the splits again so that they are disjoint"
        )


def one_frame_per_clip(scores: Scores, seed: int) -> Scores:
    """One uniformly drawn frame of each clip, since frames of one clip are not independent (MATHEMATICS 2, Video)."""
    order = np.random.default_rng(seed).permutation(len(scores))
    _, first = np.unique(scores.clip[order], return_index=True)
    return scores if len(first) == len(scores) else scores.take(np.sort(order[first]))


@dataclass(frozen=True)
class RankCheck:
    """Replay of a calibrated execution: how many radii exceed their reference, and how many may."""

    exceeding: int
    allowed: int

    def __bool__(self) -> bool:
        return self.exceeding <= self.allowed


def check_rank(scores: Scores, radius: np.ndarray, calibration: Calibration, seed: int = 0) -> RankCheck:
    """Check the final artefact's own radii on the calibration frames against the rank (MATHEMATICS 6).

    Args:
        scores: of the calibration split, from the final artefact.
        radius: float32 [n], the radii that this artefact issued for the same rows.
        calibration: its record.
        seed: as given to `calibrate`.
    """
    if scores.frames_digest != calibration.calibration_digest:
        raise CalibrationError(
            "check_rank: got other frames than the record was calibrated on; score the calibration split"
        )
    rows = np.arange(len(scores))
    if calibration.num_frames != len(scores):
        rows = np.flatnonzero(np.isin(scores.digest, one_frame_per_clip(scores, seed).digest))
    reference = label_reference(scores, float(calibration.guarantee.beta))
    exceeding = int((np.asarray(radius)[rows] > reference[rows]).sum())
    return RankCheck(exceeding, 0 if calibration.rank is None else calibration.num_frames - calibration.rank)
