"""The bookkeeping of the verified tier: full batches, the right counts, an answer for everyone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.proposals import ProposalQueue
from rrise.calibration.statistics.sequential import SequentialTest

TEST = SequentialTest(sigma=0.25, alpha=0.001)


def run(queue: ProposalQueue, p: np.ndarray, batch_size: int, seed: int) -> list[int]:
    """Answer the queue with label 1 of probability p per input; returns the sizes of the batches."""
    rng, sizes = np.random.default_rng(seed), []
    while not queue.done:
        rows = queue.next_batch(batch_size)
        sizes.append(len(rows))
        queue.record(rows, (rng.random(len(rows)) < p[rows]).astype(np.int64))
    return sizes


def test_true_proposals_are_confirmed_and_false_ones_are_not():
    z = np.tile([0.6, 1.0, 2.0], 40)
    proposal = (0.25 * z).astype(np.float32)
    good = ProposalQueue(TEST, np.ones(120), proposal, max_samples=20_000)
    run(good, stats.norm.cdf(z + 0.3), 64, seed=0)
    assert good.result().confirmed.mean() > 0.97
    np.testing.assert_array_equal(
        good.result().radius[good.result().confirmed], proposal[good.result().confirmed]
    )
    bad = ProposalQueue(TEST, np.ones(120), proposal, max_samples=20_000)
    run(bad, stats.norm.cdf(z - 0.05), 64, seed=0)
    result = bad.result()
    assert not result.confirmed.any()
    assert (result.radius <= 0.25 * (z - 0.05)).all() and (result.radius > 0).mean() > 0.9


def test_batches_stay_full_while_inputs_finish():
    z = np.linspace(0.3, 2.5, 200)
    queue = ProposalQueue(TEST, np.ones(200), 0.25 * z, max_samples=5_000)
    sizes = run(queue, stats.norm.cdf(z + 0.3), 256, seed=1)
    assert np.mean(np.array(sizes) == 256) > 0.98
    assert sum(sizes) == queue.result().samples.sum() and queue.result().samples.max() <= 5_000


def test_a_wrong_label_is_given_up_early():
    queue = ProposalQueue(TEST, np.zeros(3), np.full(3, 0.2), max_samples=100_000)
    run(queue, np.full(3, 0.9), 32, seed=2)
    assert (queue.result().radius == 0).all() and queue.result().samples.max() < 200


def test_nothing_proposed_costs_nothing():
    queue = ProposalQueue(TEST, np.zeros(2), np.zeros(2))
    assert queue.done and len(queue.next_batch(8)) == 0
    assert not queue.result().confirmed.any() and queue.result().samples.sum() == 0


def test_smaller_confirmed_radii_are_rounded_down():
    queue = ProposalQueue(TEST, np.ones(1), np.array([0.7], np.float32), max_samples=4_000)
    run(queue, np.array([0.95]), 50, seed=4)
    step = float(queue.result().radius[0]) * 8 / np.float64(np.float32(0.7))
    assert 0 < queue.result().radius[0] < 0.25 * stats.norm.ppf(0.95)
    assert round(step) - 1e-5 < step <= round(step)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": np.array([0.1])}, "expected"),
        ({"radius": np.array([0.1, -0.1])}, "negative or not finite"),
        ({"radius": np.array([0.1, np.nan])}, "negative or not finite"),
        ({"max_samples": 0}, "max_samples 0"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    values = {"label": np.zeros(2), "radius": np.array([0.1, 0.2]), **arguments}
    with pytest.raises(CalibrationError, match=message):
        ProposalQueue(TEST, **values)


def test_every_evaluation_must_be_recorded():
    queue = ProposalQueue(TEST, np.zeros(2), np.full(2, 0.1))
    rows = queue.next_batch(8)
    with pytest.raises(CalibrationError, match="record every one"):
        queue.record(rows, np.zeros(7, dtype=np.int64))
