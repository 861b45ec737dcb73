"""References in two stages: valid although who goes on is decided after looking, and nearer to the true radius."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from rrise.calibration import CalibrationError
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.statistics.stages import FIRST_SHARE, Stages

SIGMA, BETA, RADII = 0.25, 0.1, (0.25, 0.5)
STAGES = Stages(1000, 10_000)


def drawn(share: float, frames: int, seed: int, beta: float = BETA) -> np.ndarray:
    """Counts uint32 [frames, 2] of frames whose first class has this share, as the stages leave them."""
    rng = np.random.default_rng(seed)
    hits = rng.binomial(STAGES.first, share, frames)
    first = np.stack([hits, STAGES.first - hits], axis=1).astype(np.uint32)
    on = STAGES.undecided(first, SIGMA, beta, RADII)
    more = rng.binomial(STAGES.last - STAGES.first, share, frames)
    rest = np.stack([more, STAGES.last - STAGES.first - more], axis=1).astype(np.uint32)
    return np.asarray(first + on[:, None] * rest)


def proved(counts: np.ndarray) -> np.ndarray:
    """Reference radii float32 [n, K], each row at the level of its stage."""
    draws = counts.sum(axis=1, dtype=np.int64)
    return reference_radius(counts, draws, SIGMA, STAGES.levels(draws, BETA))


@pytest.mark.parametrize("radius", [0.24, 0.2499, 0.45, 0.4999])
def test_the_bounds_of_both_stages_hold_together(radius: float) -> None:
    """Frames that should not get a radius, just below it: there whoever may look twice has most to gain."""
    frames = 6000
    counts = drawn(float(norm.cdf(radius / SIGMA)), frames, seed=int(1e4 * radius))
    missed = int((proved(counts)[:, 0] > radius).sum())
    # At a miss probability of beta, more than this has probability 1e-6.
    assert missed <= binom.ppf(1 - 1e-6, frames, BETA)


def test_undivided_beta_would_miss_more_often_than_promised() -> None:
    frames, share, miss = 20_000, 0.92, 0.1
    rng = np.random.default_rng(3)
    first = rng.binomial(1000, share, frames)
    last = first + rng.binomial(9000, share, frames)
    true = SIGMA * norm.ppf(share)
    levels = {"whole": (miss, miss), "split": (miss * FIRST_SHARE, miss * (1 - FIRST_SHARE))}
    found = {}
    for name, (early, late) in levels.items():
        bounds = [
            reference_radius(np.stack([hits, size - hits], axis=1), np.full(frames, size), SIGMA, level)[:, 0]
            for hits, size, level in ((first, 1000, early), (last, 10_000, late))
        ]
        # Whoever stops where the bound is too large, and goes on where it is not.
        found[name] = float((np.maximum(*bounds) > true).mean())
    deviation = np.sqrt(miss * (1 - miss) / frames)
    assert found["whole"] > miss + 10 * deviation
    assert found["split"] <= miss + 5 * deviation


def test_who_goes_on_and_what_it_gains() -> None:
    hits = np.array([1000, 999, 975, 850, 600, 400])
    counts = np.stack([hits, 1000 - hits], axis=1).astype(np.uint32)
    assert STAGES.undecided(counts, SIGMA, BETA, RADII).tolist() == [False, False, True, True, False, False]
    assert STAGES.undecided(counts, SIGMA, BETA, (0.5,)).tolist() == [False, False, True, False, False, False]
    assert STAGES.undecided(counts, SIGMA, BETA, ()).tolist() == [True, True, True, True, True, True]
    spread = np.array([[400, 300, 300]], np.uint32)
    assert not STAGES.undecided(spread, SIGMA, BETA, ()).any(), "no class has a majority"
    # A frame with .983 for its class: 1,000 draws seldom prove 0.5 (.977), 10,000 nearly always do.
    counts = drawn(0.983, 2000, seed=1)
    alone = np.random.default_rng(2).binomial(1000, 0.983, 2000)
    single = reference_radius(np.stack([alone, 1000 - alone], axis=1), np.full(2000, 1000), SIGMA, BETA)
    assert (single[:, 0] >= 0.5).mean() < 0.5 and (proved(counts)[:, 0] >= 0.5).mean() > 0.95


def test_each_row_has_the_level_of_its_stage() -> None:
    counts = np.array([[990, 10, 0], [9900, 90, 10]], np.uint32)
    found = proved(counts)
    first = reference_radius(counts[:1], np.array([1000]), SIGMA, 0.01)
    last = reference_radius(counts[1:], np.array([10_000]), SIGMA, 0.09)
    np.testing.assert_allclose(found, np.concatenate([first, last]), atol=1e-7)


def test_other_draws_and_other_stages_are_refused() -> None:
    with pytest.raises(CalibrationError, match="got a frame with 3000 draws, expected 1000 or 10000"):
        proved(np.array([[3000, 0]], np.uint32))
    with pytest.raises(CalibrationError, match="got 1000 and 1000, expected two increasing"):
        Stages(1000, 1000)
