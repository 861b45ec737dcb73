"""A new record for this execution or for new references (a new site, a new camera), without retraining: numpy only."""

from __future__ import annotations

from typing import Iterable, Sequence, Union

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.fit import calibrate
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.attempts import AttemptLog
from rrise.calibration.tables.scores import Scores


def recalibrate(
    scores: Scores,
    current: Calibration,
    log: AttemptLog,
    *,
    training_digests: Iterable[Union[str, bytes]] = (),
    offsets: Sequence[float] = (),
) -> Calibration:
    """Calibrate again what `current` says, on the frames and the execution of `scores`.

    Kept from `current`: guarantee, map, difficulty and threshold, which must not depend on the new frames. New: offset,
    execution, frames. Stored reference radii are used, so scipy is not needed.

    Args:
        scores: of split "calibration", with `reference` and `beta` (a reference pack has both).
        current: the record in force.
        log: every attempt is written to it before its result is known.
        training_digests: of the frames that the surrogate or the map has seen.
        offsets: for a selective record that was made by fixed-sequence testing: the offsets to test.

    Raises:
        CalibrationError: scores that do not fit the record (sigma, base classifier, beta), or what `calibrate` refuses.

    **Guarantee**: the record's own, over the new frames. `attempt` above 1 says that it is weaker.
    """
    beta = float(current.guarantee.beta)
    if scores.reference is None or scores.beta != beta:
        raise CalibrationError(
            f"recalibrate: got reference radii for beta {scores.beta}, expected them for the record's beta {beta}; make "
            "the reference pack with that beta"
        )
    if scores.base_digest != current.base_digest:
        raise CalibrationError(
            f"recalibrate: the references were drawn from base classifier {scores.base_digest[:12]}, the record's is "
            f"{current.base_digest[:12]}; draw references from that one"
        )
    if scores.sigma != current.head.sigma:
        raise CalibrationError(
            f"recalibrate: got references at sigma {scores.sigma}, the record's is {current.head.sigma}"
        )
    head = current.head
    chosen = {
        "scores": scores.content_digest,
        "execution": scores.execution.to_json(),
        "guarantee": current.guarantee.to_json(),
        "map": head.map.to_json(),
        "difficulty": head.difficulty,
        "threshold": head.threshold,
        "offsets": [float(offset) for offset in offsets],
        "seed": current.seed,
    }
    attempt = log.append(scores.frames_digest, chosen)
    return calibrate(
        scores,
        current.guarantee,
        head.map,
        training_digests=training_digests,
        attempt=attempt,
        seed=current.seed,
        difficulty=head.difficulty,
        threshold=head.threshold,
        offsets=offsets,
    )
