"""Corrupted frames: what is still issued, what of it is wrong or for the wrong class, and when the drift monitor speaks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.signs.corruptions import corrupt, distance
from rrise.calibration import Scores
from rrise.calibration.promise.offsets import independent_frames
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.bounds import certified_radius
from rrise.calibration.statistics.drift import POWERS, DriftReference, DriftTest, SleepingMartingale
from rrise.calibration.statistics.shares import Share
from rrise.calibration.storage.digests import frame_digests
from rrise.edge_sdk.device.drift import DriftSettings, frame_features
from rrise.trainer.counts.counting import counting_for
from rrise.trainer.montecarlo import CountStore, sample_counts
from rrise.trainer.scores.surrogate_scores import Predicted, run_surrogate
from rrise.trainer.workspace import Workspace

DAY = 86_400


@dataclass(frozen=True)
class Under:
    """One frame of each test track under one corruption; "none" leaves the frames as they are.

    moved: mean distance in L2. accuracy: share of frames that the surrogate names rightly. issued: share of frames with a
    certificate; wrong, wrong_class: of these, those whose radius exceeds the true one, by fresh draws at the corrupted frame,
    and those for another class. alarm: after how many monitored frames drift is reported, median over simulated days; None where
    most days pass without. alarmed: share of days with an alarm.
    """

    name: str
    severity: int
    moved: float
    accuracy: float
    issued: Share
    wrong: Share
    wrong_class: Share
    alarm: float | None
    alarmed: float


class Bench:
    """The certificates of `record` on one frame of each test track, whatever happens to these frames.

    draws: of each certificate that is judged. The folder `out` keeps the counts, so that a run that was stopped continues.
    """

    def __init__(self, workspace: Workspace, record: Calibration, out: Path, draws: int) -> None:
        self.workspace, self.record, self.out, self.draws = workspace, record, out, draws
        self.surrogate, self.base = workspace.surrogate(), workspace.base()
        self.counting = counting_for(workspace, self.base)
        self.frames, self.target = self._one_of_each_clip("test")
        frames, _ = self._one_of_each_clip("calibration")
        # As `rrise-edge drift` fits it: one frame of each calibration clip.
        self.p_value = DriftReference.fit(features(frames, self._seen(frames).probit)).p_values()
        self.settings = DriftSettings()

    def under(self, name: str, severity: int, days: int) -> Under:
        """All numbers for one corruption."""
        frames = self.frames if name == "none" else corrupt(self.frames, name, severity)
        seen = self._seen(frames)
        radius = self.record.head.radius(seen.probit, seen.label, seen.difficulty)
        issued = radius > 0
        wrong = self._wrong(frames, seen.label, radius, f"{name}-{severity}")
        p_values = np.array([self.p_value(row) for row in features(frames, seen.probit)])
        most = round(DAY / self.settings.interval)
        alarm, alarmed = frames_to_alarm(p_values, self.settings.alpha, days, most)
        return Under(
            name,
            severity,
            moved=float(distance(self.frames, frames).mean()),
            accuracy=float(np.mean(seen.label == self.target)),
            issued=Share.of(int(issued.sum()), len(issued)),
            wrong=Share.among(wrong, issued),
            wrong_class=Share.among(seen.label != self.target, issued),
            alarm=alarm,
            alarmed=alarmed,
        )

    def _one_of_each_clip(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Frames uint8 [m, H, W, C] and their classes."""
        pack = self.workspace.references(split)
        label = np.zeros(len(pack), np.int64)
        table: Scores = pack.scores(label, np.zeros(len(pack), np.float32), None, self.record.execution)
        rows = independent_frames(table, 0)
        return pack.frames[rows], pack.target[rows]

    def _seen(self, frames: np.ndarray) -> Predicted:
        return run_surrogate(self.surrogate.module, self.workspace.preprocess, frames)

    def _wrong(self, frames: np.ndarray, label: np.ndarray, radius: np.ndarray, name: str) -> np.ndarray:
        """Which certificates exceed the true radius, bool [n]; draws are spent on these frames alone."""
        rows, config = np.flatnonzero(radius > 0), self.workspace.config
        wrong = np.zeros(len(radius), bool)
        if not len(rows):
            return wrong
        store = CountStore.open(
            self.out / "targets.zarr",
            stream=f"corrupted-{name}",
            digests=frame_digests(frames[rows]),
            num_classes=len(self.workspace.class_names),
            sigma=config.smoothing.sigma,
            seed=config.smoothing.seed,
            base_digest=self.base.digest,
            dtype=config.targets.dtype,
            engine=self.counting.engine,
        )
        sample_counts(self.counting.labeller, self.workspace.preprocess, frames[rows], store, self.draws)
        hits = store.counts()[np.arange(len(rows)), label[rows]] / store.samples()
        wrong[rows] = radius[rows] > certified_radius(hits, config.smoothing.sigma)
        return wrong


def features(frames: np.ndarray, probit: np.ndarray) -> np.ndarray:
    """What the drift monitor compares of each frame, float64 [n, 6]."""
    rows = zip(frames, probit, strict=True)
    return np.stack([frame_features(frame, float(value)) for frame, value in rows])


def frames_to_alarm(p_values: np.ndarray, alpha: float, days: int, most: int) -> tuple[float | None, float]:
    """Monitored frames until the monitor speaks, the median over simulated days, and the share of days with an alarm.

    p_values: float64 [n, questions] of frames like that day's, which are drawn from with replacement. most: monitored
    frames of a day. A day without an alarm counts as longer than all others; None where the median is such a day.
    """
    took = np.full(days, most + 1)
    for day in range(days):
        test = DriftTest(SleepingMartingale(len(POWERS) * p_values.shape[1]))
        rows = np.random.default_rng([6, day]).integers(len(p_values), size=most)
        for seen, row in enumerate(rows, start=1):
            test.update(p_values[row])
            if test.log_wealth >= -math.log(alpha):
                took[day] = seen
                break
    median = float(np.median(took))
    return (None if median > most else median), float(np.mean(took <= most))
