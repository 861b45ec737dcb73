"""Fewer draws from those that are there: exact sums, the law of fewer draws, refusal of more than there are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import norm

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.statistics.stages import Stages
from rrise.calibration.tables.thinning import thin, thin_counts
from tests.calibration.helpers import draw_scores


def test_thinned_counts_are_distributed_like_fewer_draws() -> None:
    counts = draw_scores(0, num_frames=100, num_samples=200).counts
    runs = [thin_counts(counts, 50, np.random.default_rng(seed)) for seed in range(400)]
    thinned = np.stack(runs).astype(np.int64)
    assert (thinned.sum(axis=2) == 50).all() and (thinned <= counts).all()
    # Hypergeometric means and variances of every frame's top class; 100 frames, 5.5 standard errors.
    top = counts.argmax(axis=1)
    values, share = thinned[:, np.arange(len(top)), top], counts.max(axis=1) / 200
    variance = 50 * share * (1 - share) * (200 - 50) / (200 - 1)
    assert (np.abs(values.mean(axis=0) - 50 * share) <= 5.5 * np.sqrt(variance / 400) + 1e-9).all()
    # The mean of the empirical variances over the frames, whose spread is about sqrt(2 / 400 / 100) of it.
    assert values.var(axis=0).mean() == pytest.approx(variance.mean(), rel=0.05)


def test_a_thinned_table_keeps_everything_but_its_draws() -> None:
    whole = draw_scores(1, num_frames=20)
    stored = dataclasses.replace(whole, reference=whole.computed_reference(0.1), beta=0.1)
    fewer = thin(stored, 100, np.random.default_rng(0))
    assert (fewer.num_samples == 100).all() and fewer.counts.dtype == np.uint32
    assert fewer.reference is None and fewer.beta is None
    assert np.array_equal(fewer.probit, whole.probit) and np.array_equal(fewer.digest, whole.digest)
    assert np.array_equal(thin(stored, 500, np.random.default_rng(0)).counts, whole.counts)
    assert len(thin(whole.take(np.arange(0)), 100, np.random.default_rng(0))) == 0


def test_draws_in_stages_are_not_thinned() -> None:
    """Who has 1,000 draws was decided by them: thinned to 1,000 like the others, bounds miss far more often than at beta."""
    stages, sigma, frames, radius = Stages(1000, 10_000), 0.25, 5000, 0.26
    share, rng = float(norm.cdf(radius / sigma)), np.random.default_rng(0)
    hits = rng.binomial(1000, share, frames)
    first = np.stack([hits, 1000 - hits], axis=1).astype(np.uint32)
    on = stages.undecided(first, sigma, 0.1, (0.25,))
    hits = np.where(on, hits + rng.binomial(9000, share, frames), hits)
    samples = np.where(on, 10_000, 1000)
    counts = np.stack([hits, samples - hits], axis=1).astype(np.uint32)
    thinned = thin_counts(counts, 1000, rng)
    missed = (reference_radius(thinned, np.full(frames, 1000), sigma, 0.1)[:, 0] > radius).mean()
    # Instead of .1, with a standard deviation of .004.
    assert missed > 0.13
    reference = reference_radius(counts, samples, sigma, stages.levels(samples, 0.1))[:, 0]
    table = dataclasses.replace(
        draw_scores(0, num_frames=frames, num_classes=2), counts=counts, num_samples=samples.astype(np.uint32),
        label=np.zeros(frames, np.int64), reference=reference, beta=0.1,
    )  # fmt: skip
    with pytest.raises(CalibrationError, match=r"in stages .*\(1000 to 10000 draws a frame\).*refine = 0"):
        thin(table, 1000, rng)
    with pytest.raises(CalibrationError, match=r"\(10000 to 10000 draws a frame\)"):
        thin(table.take(on), 1000, rng)  # where every frame went on, all have as many


@pytest.mark.parametrize("asked", [0, -1, 501])
def test_more_draws_than_there_are_or_none_are_refused(asked: int) -> None:
    with pytest.raises(CalibrationError, match="at most the 500"):
        thin(draw_scores(2), asked, np.random.default_rng(0))
