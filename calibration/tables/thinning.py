"""Fewer Monte Carlo draws from those that are there: what a smaller budget would have given, without drawing again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.tables.scores import Scores


def thin_counts(counts: np.ndarray, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """`num_samples` of the draws in every row of counts [n, K], without replacement; uint32 [n, K].

    A random subset of independent draws has exactly the distribution of so many draws made in the first place.

    Raises:
        CalibrationError: a row holds fewer draws than that.
    """
    rows = counts.astype(np.int64)
    least = int(rows.sum(axis=1).min()) if len(rows) else num_samples
    if not 1 <= num_samples <= least:
        raise CalibrationError(
            f"draws: got N = {num_samples}, expected at least 1 and at most the {least} that every frame has; ask for "
            "less, or draw more"
        )
    thinned = [rng.multivariate_hypergeometric(row, num_samples) for row in rows]
    return np.array(thinned, np.uint32).reshape(counts.shape)


def thin(scores: Scores, num_samples: int, rng: np.random.Generator) -> Scores:
    """The table with `num_samples` of each frame's draws; its stored reference radii no longer apply and are left out.

    Raises:
        CalibrationError: a frame has fewer draws than that, or beta was split over stages or looks: how many draws there are
            then depends on the first of them, also where every frame went on, so that fewer of them are no fresh sample.
    """
    if scores.shares_beta():
        raise CalibrationError(
            f"draws: got references in stages or after several looks ({int(scores.num_samples.min())} to "
            f"{int(scores.num_samples.max())} draws a frame), expected draws whose number was fixed for each frame; use counts "
            "that were drawn with [targets] refine = 0 and looks = 1"
        )
    return replace(
        scores,
        counts=thin_counts(scores.counts, num_samples, rng),
        num_samples=np.full(len(scores), num_samples, np.uint32),
        reference=None,
        beta=None,
    )
