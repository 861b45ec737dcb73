"""From scores to the offset: the k-th smallest float32 excess of the raw radius over the reference radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterable, Optional, Sequence, Tuple, Union

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.head import WITHHELD, CertificateHead
from rrise.calibration.promise.maps import IDENTITY, RadiusMap
from rrise.calibration.promise.offsets import excesses, independent_frames, one_frame_per_clip, reference_for
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.bounds import unproved
from rrise.calibration.tables.scores import Scores


def calibrate(
    scores: Scores,
    guarantee: Guarantee,
    map: RadiusMap = IDENTITY,
    *,
    training_digests: Iterable[Union[str, bytes]] = (),
    attempt: int = 0,
    seed: int = 0,
    difficulty: Optional[bool] = None,
    threshold: Optional[float] = None,
    offsets: Sequence[float] = (),
) -> Calibration:
    """Choose the offset of one execution from its scores on the calibration split.

    Args:
        scores: table of split "calibration". Where clips have several frames, one is drawn per clip with `seed`, except
            for the whole-clip kind, which uses them all.
        guarantee: what is promised.
        map: chosen on other frames than these, like `difficulty`, `threshold` and `offsets` (see `plan`).
        training_digests: digests of every frame that the surrogate, the map or the quantiser has seen.
        attempt: number from the log of attempts (`storage.attempts`), by which the promise is made stricter; 0 where
            this is the only use of these frames, for which the caller vouches. It is recorded.
        difficulty: whether the surrogate's difficulty scales the offset; None: where it has one.
        threshold: selective kind: frames whose raw radius does not exceed it abstain.
        offsets: selective kind, instead of a threshold: offsets to be tested in turn from large to small.

    Returns:
        The record. Where nothing can be promised its offset is infinite: it issues nothing and `message` says why.

    Raises:
        CalibrationError: another split, frames that were trained on, frames that occur twice, or arguments that do
            not belong to the kind of guarantee.

    **Guarantee**: `guarantee.sentence()`. Source: RRISE (arXiv 2606.02876); proofs in calibration/README.md.
    """
    _refuse_seen(scores, training_digests)
    _refuse_unproved(scores)
    use_difficulty = scores.difficulty is not None if difficulty is None else difficulty
    _refuse_contradictions(scores, guarantee, use_difficulty, threshold, offsets, map)
    head = CertificateHead(scores.sigma, map, difficulty=use_difficulty, threshold=threshold)
    chosen = scores if guarantee.rules.whole_clips else one_frame_per_clip(scores, seed)
    found = _fit(chosen, guarantee.spent(attempt), head, offsets)
    fitted = head.with_offset(found.offset)
    # Of a random frame of a clip, whatever is ranked: all frames together would count long clips more than the promise does.
    seen = one_frame_per_clip(scores, seed)
    radius = fitted.radius(seen.probit, seen.label, seen.difficulty)
    return Calibration(
        head=fitted,
        guarantee=guarantee,
        execution=scores.execution,
        num_frames=found.num_frames,
        rank=found.rank,
        calibration_digest=scores.frames_digest,
        base_digest=scores.base_digest,
        num_samples=(int(scores.num_samples.min()), int(scores.num_samples.max())),
        attempt=attempt,
        seed=seed,
        class_frames=found.class_frames,
        withheld=found.withheld,
        issued=(int((radius > 0).sum()), len(seen)),
    )


def _refuse_seen(scores: Scores, training_digests: Iterable[Union[str, bytes]]) -> None:
    if scores.split != "calibration":
        raise CalibrationError(
            f"calibrate: got scores of split {scores.split!r}, expected 'calibration'; score that split"
        )
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


def _refuse_unproved(scores: Scores) -> None:
    """Stored reference radii must not exceed what the counts beside them prove."""
    if scores.reference is None or scores.beta is None:
        return
    wrong = unproved(scores.label_counts(), scores.num_samples, scores.reference, scores.sigma, scores.beta)
    if wrong.any():
        raise CalibrationError(
            f"calibrate: {int(wrong.sum())} stored reference radii are larger than their counts prove at beta {scores.beta}, "
            f"first frame {int(np.flatnonzero(wrong)[0])}; the reference pack is broken, make it again"
        )


def _refuse_contradictions(
    scores: Scores,
    guarantee: Guarantee,
    difficulty: bool,
    threshold: Optional[float],
    offsets: Sequence[float],
    map: RadiusMap,
) -> None:
    if difficulty and scores.difficulty is None:
        raise CalibrationError("calibrate: got difficulty=True, but this surrogate has no difficulty head")
    guarantee.rules.refuse_choice(threshold, offsets, map.radii, difficulty)


@dataclass(frozen=True)
class _Fit:
    """Offset, what it was ranked among, and why something is withheld."""

    offset: Tuple[float, ...]
    num_frames: int
    rank: Optional[int]
    withheld: str = ""
    class_frames: Tuple[int, ...] = ()


def _fit(chosen: Scores, guarantee: Guarantee, head: CertificateHead, offsets: Sequence[float]) -> _Fit:
    if len(offsets):
        return _fixed_sequence(chosen, guarantee, head, offsets)
    excess = excesses(chosen, head, guarantee)
    if guarantee.rules.by_class:
        return _per_class(excess, chosen, guarantee)
    excess = guarantee.rules.scores(excess, chosen.clip)
    if head.threshold is not None:
        excess = excess[head.raw_radius(chosen.probit) > np.float32(head.threshold)]
    found = _ranked(excess, guarantee)
    if head.threshold is not None and np.float32(head.threshold) < found.offset[0] < math.inf:
        return _Fit(
            (math.inf,),
            found.num_frames,
            found.rank,
            f"the offset {found.offset[0]:.6g} exceeds the threshold {head.threshold:.6g}, which therefore does not say "
            "who is issued; choose a larger threshold",
        )
    return found


def _ranked(excess: np.ndarray, guarantee: Guarantee) -> _Fit:
    rank = guarantee.rank(len(excess))
    if rank is None:
        return _Fit((math.inf,), len(excess), None, too_few(len(excess), guarantee))
    offset = float(np.sort(excess)[rank - 1])
    withheld = "" if math.isfinite(offset) else "no finite offset brings enough frames below their reference"
    return _Fit((offset,), len(excess), rank, withheld)


def too_few(num_frames: int, guarantee: Guarantee) -> str:
    """Why `num_frames` are not enough, with the number that is."""
    return (
        f"{num_frames} {guarantee.unit} are too few: error {float(guarantee.error):g} ({guarantee.kind}) needs at least "
        f"{guarantee.frames_needed()}"
    )


def _per_class(excess: np.ndarray, chosen: Scores, guarantee: Guarantee) -> _Fit:
    groups = [excess[group] for group in guarantee.rules.groups(chosen.label, len(chosen.class_names))]
    fits = [_ranked(group, guarantee) for group in groups]
    frames = tuple(len(group) for group in groups)
    poor = [
        f"{name} ({count})" for name, count, fit in zip(chosen.class_names, frames, fits) if fit.rank is None
    ]
    withheld = ""
    if poor:
        withheld = f"classes with too few calibration frames, {guarantee.frames_needed()} of each are needed: {', '.join(poor)}"
    if len(poor) == len(fits):
        return _Fit((math.inf,), len(chosen), None, withheld, frames)
    endless = [fit for fit in fits if fit.rank is not None and math.isinf(fit.offset[0])]
    if endless:
        return _Fit((math.inf,), len(chosen), None, endless[0].withheld, frames)
    offset = tuple(WITHHELD if fit.rank is None else fit.offset[0] for fit in fits)
    ranked = [fit for fit in fits if fit.rank is not None]
    return _Fit(
        offset, sum(fit.num_frames for fit in ranked), sum(fit.rank or 0 for fit in ranked), withheld, frames
    )


def _fixed_sequence(
    chosen: Scores, guarantee: Guarantee, head: CertificateHead, offsets: Sequence[float]
) -> _Fit:
    """The last offset, from large to small, up to which every one passes its test of P(R > R_low | issued) > alpha.

    Each test has level delta; since testing stops at the first that fails, all that passed are right together with
    probability 1 - delta. Taking the smallest offset anywhere that passes would not be valid.
    """
    reference = reference_for(chosen, guarantee)
    found = _Fit((math.inf,), 0, None, "")
    for offset in sorted({float(np.float32(value)) for value in offsets}, reverse=True):
        radius = head.with_offset((offset,)).radius(chosen.probit, chosen.label, chosen.difficulty)
        issued = int((radius > 0).sum())
        rank = guarantee.rank(issued)
        if rank is None or int((radius > reference).sum()) > issued - rank:
            if found.rank is None:
                reason = (
                    too_few(issued, guarantee)
                    if rank is None
                    else "even the largest offset has too many errors"
                )
                return _Fit((math.inf,), issued, None, f"first of the offsets, {offset:.6g}: {reason}")
            break
        found = _Fit((offset,), issued, rank)
    return found


@dataclass(frozen=True)
class RankCheck:
    """Replay of a calibrated execution: how many radii exceed their reference, and how many may.

    `groups` has the same two numbers for each predicted class of a per-class guarantee; every class must pass.
    """

    exceeding: int
    allowed: int
    groups: Tuple[Tuple[int, int], ...] = ()

    def __bool__(self) -> bool:
        return self.exceeding <= self.allowed and all(above <= allowed for above, allowed in self.groups)


def check_rank(scores: Scores, radius: np.ndarray, calibration: Calibration) -> RankCheck:
    """Check the final artefact's own radii on the calibration frames against the rank (calibration/README.md, "Exactness").

    Args:
        scores: of the calibration split, from the final artefact.
        radius: float32 [n], the radii that this artefact issued for the same rows.
        calibration: its record.

    Raises:
        CalibrationError: other frames, another artefact or another base classifier than the record's, or not one radius
            for each row.
    """
    if np.shape(radius) != (len(scores),):
        raise CalibrationError(f"check_rank: got radii {np.shape(radius)}, expected ({len(scores)},)")
    if scores.frames_digest != calibration.calibration_digest:
        raise CalibrationError(
            "check_rank: got other frames than the record was calibrated on; score the calibration split"
        )
    if (
        scores.base_digest != calibration.base_digest
        or scores.execution.artefact != calibration.execution.artefact
    ):
        raise CalibrationError(
            f"check_rank: got scores of artefact {scores.execution.artefact[:12]} (base {scores.base_digest[:12]}), expected "
            f"{calibration.execution.artefact[:12]} (base {calibration.base_digest[:12]}) as in the record; score that one"
        )
    # Not "greater": a radius that is NaN is no certificate that holds.
    above = ~(np.asarray(radius) <= reference_for(scores, calibration.guarantee))
    allowed = 0 if calibration.rank is None else calibration.num_frames - calibration.rank
    if calibration.guarantee.rules.whole_clips:
        return RankCheck(len(np.unique(scores.clip[above])), allowed)
    chosen = independent_frames(scores, calibration.seed)
    groups = []
    for label, frames in enumerate(calibration.class_frames):
        rank = calibration.guarantee.spent(calibration.attempt).rank(frames)
        mine = above & chosen & (scores.label == label)
        groups.append((int(mine.sum()), 0 if rank is None else frames - rank))
    return RankCheck(int((above & chosen).sum()), allowed, tuple(groups))
