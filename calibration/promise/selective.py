"""The selective rule's choices on the tuning split: which raw radius is enough to be issued, which offsets to test."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.maps import RadiusMap
from rrise.calibration.promise.offsets import LEAST, excesses, reference_for
from rrise.calibration.tables.scores import Scores

CAUTION = 4
"""Standard deviations by which the tuning split's share of errors is raised when it foretells the offset."""


def choose_threshold(
    tuning: Scores,
    guarantee: Guarantee,
    map: RadiusMap,
    *,
    radius: Optional[float] = None,
    num_calibration: int = 0,
) -> float:
    """The threshold tau on the raw radius that issues most, among those whose offset will stay below it.

    A frame is issued when its raw radius exceeds tau, and the rule is valid only where q <= tau. The offset to come is
    foretold from the tuning frames above tau, with caution, since an offset above tau would issue nothing at all.

    Args:
        tuning: scores of split "tuning".
        guarantee: of kind "selective".
        map: of the head.
        radius: count certificates of at least this radius; None: all.
        num_calibration: frames of the calibration split; 0: as many as here.

    Raises:
        CalibrationError: no threshold works, with the reason.
    """
    head = CertificateHead(tuning.sigma, map)
    raw, excess = head.raw_radius(tuning.probit), excesses(tuning, head, guarantee)
    scale = (num_calibration or len(tuning)) / len(tuning)
    best: Optional[Tuple[float, float]] = None
    for tau in np.unique(np.quantile(raw[raw > 0], np.linspace(0, 0.99, 100))) if (raw > 0).any() else ():
        above = raw > tau
        expected = int(above.sum() * scale)
        rank = guarantee.rank(expected)
        if rank is None:
            continue
        allowed = (expected - rank) / expected
        slack = CAUTION * np.sqrt(allowed * (1 / above.sum() + 1 / expected))
        place = min(int(np.ceil((1 - max(allowed - slack, 0.0)) * above.sum())), int(above.sum()))
        offset = np.sort(excess[above])[place - 1]
        share = float(np.mean(above & (raw - offset >= (radius or 0.0))))
        if offset <= tau and (best is None or share > best[0]):
            best = (share, float(np.float32(tau)))
    if best is None:
        raise CalibrationError(
            f"selective: no threshold on the raw radius keeps error {float(guarantee.error):g} among issued frames of "
            f"the tuning split ({len(tuning)} frames, {guarantee.frames_needed()} issued ones are needed); use more "
            "frames, a larger error or a better surrogate"
        )
    return best[1]


def offset_grid(
    tuning: Scores, guarantee: Guarantee, map: RadiusMap, *, difficulty: bool = False, steps: int = 40
) -> Tuple[float, ...]:
    """Offsets for fixed-sequence testing, large to small: around where errors among issued tuning frames reach alpha.

    It begins where the tuning frames show a quarter of the level, so that the first tests hardly fail, and ends
    where they show twice the level.
    """
    head = CertificateHead(tuning.sigma, map, difficulty=difficulty)
    reference = reference_for(tuning, guarantee)
    excess = excesses(tuning, head, guarantee)
    bound = excess[excess > LEAST]  # the others hold at any offset
    candidates = np.unique(np.quantile(bound, np.linspace(0, 1, 400))) if len(bound) else np.array([LEAST])
    shares, some = [], []
    for offset in candidates:
        radius = head.with_offset((float(offset),)).radius(tuning.probit, tuning.label, tuning.difficulty)
        issued = int((radius > 0).sum())
        shares.append(float((radius > reference).sum()) / issued if issued else 0.0)
        some.append(issued > 0)
    alpha = float(guarantee.alpha)
    share = np.array(shares)
    low = candidates[(share <= 2 * alpha) & np.array(some)]
    high = candidates[share >= alpha / 4]
    if not len(low):
        raise CalibrationError(
            f"selective: every offset has more than twice the error {float(guarantee.error):g} among issued tuning "
            "frames; use a larger error or a better surrogate"
        )
    top = float(high.max()) if len(high) else float(candidates.max())
    grid = np.linspace(top, float(low.min()), steps).astype(np.float32)
    return tuple(float(value) for value in grid)
