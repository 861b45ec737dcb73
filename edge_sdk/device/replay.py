"""Replayed frames against what was recorded at export: the paired comparison of two executions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.record import Calibration
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk.runtime.base import Outputs

MARGIN_FACTOR = 2.0
"""New frames may differ a little more than the replayed ones, so twice what was seen is subtracted."""


@dataclass(frozen=True)
class Replay:
    """Paired comparison with what was recorded at export.

    Attributes:
        frames: frames that were recorded and replayed; recorded: how many were recorded.
        flipped: frames with another label than recorded, of which `flipped_certified` have a radius here.
        larger: certificates larger than recorded; largest_increase: by how much at most, radius units. Of a staircase
            (a map that issues given radii only) a frame counts that came nearer to the next step, too; of a selective
            guarantee every change counts.
        other_counts: frames whose counts are not those of the export.
    """

    frames: int
    recorded: int
    flipped: int
    flipped_certified: int
    larger: int
    largest_increase: float
    other_counts: int = 0

    @property
    def complete(self) -> bool:
        return 0 < self.frames == self.recorded


def margin_for(replay: Replay) -> float:
    """What is subtracted from every radius on an execution that differs so from what was recorded."""
    if replay.largest_increase == 0.0:
        return 0.0
    return math.nextafter(MARGIN_FACTOR * replay.largest_increase, math.inf)


def compare_with_recorded(
    recorded: Optional[Scores], record: Calibration, references: References, outputs: Outputs
) -> Tuple[Replay, np.ndarray]:
    """Compare with the recorded answers; also says which frames of the pack were recorded, bool [n]."""
    if recorded is None:
        return Replay(0, 0, 0, 0, 0, 0.0), np.zeros(len(references), bool)
    rows = {digest: row for row, digest in enumerate(recorded.digest.tolist())}
    match = np.array([rows.get(digest, -1) for digest in references.digest.tolist()])
    paired = match >= 0
    then = recorded.take(match[paired])
    before = record.head.radius(then.probit, then.label, then.difficulty).astype(np.float64)
    now, label = outputs.radius[paired].astype(np.float64), outputs.label[paired]
    flipped = label != then.label
    change = now - before
    increase = np.where(flipped, 0.0, np.maximum(change, _nearer(record.head, then, outputs, paired)))
    if record.guarantee.rules.among_issued:
        # Its share is one among issued certificates: a right one that is lost here weakens it as well.
        increase = np.maximum(increase, np.abs(change))
    return Replay(
        frames=len(np.unique(match[paired])),
        recorded=len(recorded),
        flipped=int(flipped.sum()),
        flipped_certified=int((flipped & (now > 0)).sum()),
        larger=int((increase > 0).sum()),
        largest_increase=float(increase.max(initial=0.0)),
        other_counts=int((references.counts[paired] != then.counts).any(axis=1).sum()),
    ), paired


def _nearer(head: CertificateHead, then: Scores, outputs: Outputs, paired: np.ndarray) -> np.ndarray:
    """By how much each replayed frame came nearer to the next step of a staircase, float64 [m]; 0 where there is none.

    Whether it crossed a step does not matter: what came nearer here may cross one in a frame that was not replayed. Below
    the first step by its own radius and more, nothing counts.
    """
    if not head.map.radii:
        return np.zeros(len(then))
    difficulty = None if outputs.difficulty is None else outputs.difficulty[paired]
    floor = float(head.map.thresholds[0]) - float(head.map.radii[0])
    now, before = (
        np.fmax(reach.astype(np.float64), floor)  # NaN issues nothing
        for reach in (
            head.reach(outputs.probit[paired], outputs.label[paired], difficulty),
            head.reach(then.probit, then.label, then.difficulty),
        )
    )
    return np.asarray(now - before)
