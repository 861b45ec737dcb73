"""What a drift test will see, and when: how many frames pass until it alarms once a feature has shifted by so much."""

from __future__ import annotations

import math

import numpy as np

from rrise.calibration.statistics.drift import POWERS, DriftReference, SleepingMartingale

DAY = 2880
"""Frames of a day at one every 30 seconds."""


def frames_until_alarm(
    reference: DriftReference,
    shift: float,
    *,
    alpha: float = 0.005,
    after: int = 0,
    limit: int = DAY,
    trials: int = 5,
    seed: int = 0,
) -> float:
    """Median frames until the alarm, simulated, for the feature whose shift is seen last; inf: not within `limit`.

    Frames are drawn from the reference's own values of that feature and moved by `shift` of its standard deviations, up and
    down in turn. Only the bets on this feature are followed, so that a shift which shows in others too is seen sooner.

    Args:
        after: frames like the reference that come before. alpha: of the monitor.

    Returns:
        nan where no feature varies, or the reference knows the distance only.
    """
    generator = np.random.default_rng(seed)
    p_values, slowest = reference.p_values(), math.nan
    for place, values in enumerate(reference.features):
        spread = float(values.std())
        if spread <= 1e-9 * (abs(float(values.mean())) + 1e-9):
            continue
        found = []
        for trial in range(trials):
            live = generator.choice(values, after + limit)
            live[after:] += (-1) ** trial * shift * spread
            high, low = p_values.of_feature(place, live)
            found.append(_alarm(np.stack([high, low], 1), reference.questions, alpha) - after)
        median = float(np.median(found))
        slowest = median if math.isnan(slowest) else max(slowest, median)
    return slowest


def _alarm(p_values: np.ndarray, questions: int, alpha: float) -> float:
    """The frame at which bets on p_values, float64 [n, s], own 1 / alpha, where the stake was shared by `questions`."""
    powers = np.array(POWERS)
    logs = (np.log(powers) + (powers - 1.0) * np.log(p_values)[:, :, None]).reshape(len(p_values), -1)
    needed = -math.log(alpha) + math.log(questions / p_values.shape[1])
    reached = np.flatnonzero(SleepingMartingale.course(logs) >= needed)
    return float(reached[0] + 1) if len(reached) else math.inf
