"""Each condition of the theorem, broken on purpose, shows: the violations go far beyond delta."""

import numpy as np
from scipy.stats import binom, norm

from rrise.calibration import Guarantee
from rrise.calibration.statistics.bounds import lower_radius
from tests.calibration.worlds import SIGMA, World, at_most, ranked

GUARANTEE = Guarantee.of("pac", "0.05", "0.95", "0.1")
TRIALS = 2000


def _violations(world: World, scores: np.ndarray, guarantee: Guarantee = GUARANTEE) -> float:
    return float((world.wrong_share(ranked(scores, guarantee)) > float(guarantee.error)).mean())


def test_shared_monte_carlo_noise_breaks_pac() -> None:
    """Half a per cent of bad frames too many is nearly always noticed, unless one noise block serves every frame."""
    rng = np.random.default_rng(0)
    world = World.make(0.09, 400, 0.1)
    assert _violations(world, world.draw(rng, TRIALS, 1000)) == 0.0
    bad = rng.random((TRIALS, 1000)) < world.share
    block = rng.random((TRIALS, 1))
    counts = np.broadcast_to(binom.ppf(block, world.num_samples, world.p).astype(int), bad.shape)
    shared = np.where(bad, world.table[counts], world.good)
    assert _violations(world, shared) > 0.07  # with probability beta all references are too large at once


def test_raising_n_after_looking_breaks_the_bound() -> None:
    """Nine looks, keeping the best bound: the miss probability is no longer beta, and PAC fails with it."""
    rng = np.random.default_rng(1)
    beta, looks = 0.1, [100 * 2**step for step in range(9)]
    world = World.make(0.065, 400, beta)
    draws = [looks[0], *np.diff(looks)]
    tables = [lower_radius(np.arange(n + 1), n, SIGMA, beta) for n in looks]
    counts = np.cumsum([rng.binomial(n, world.p, 200_000) for n in draws], axis=0)
    bounds = np.array([table[row] for table, row in zip(tables, counts)])
    best = bounds.max(axis=0)
    assert all((row > world.true_radius).mean() <= at_most(beta, 200_000) for row in bounds)
    assert (best > world.true_radius).mean() > 0.3
    # Beta over the looks so far is not enough: the shares beta / j of nine looks add up to 2.8 beta.
    so_far = np.array(
        [
            lower_radius(np.arange(n + 1), n, SIGMA, beta / (place + 1))[row]
            for place, (n, row) in enumerate(zip(looks, counts))
        ]
    ).max(axis=0)
    assert (so_far > world.true_radius).mean() > at_most(beta, 200_000)
    # Splitting beta over a number of looks that is fixed beforehand mends it.
    split = np.array(
        [lower_radius(np.arange(n + 1), n, SIGMA, beta / 9)[row] for n, row in zip(looks, counts)]
    ).max(axis=0)
    assert (split > world.true_radius).mean() <= at_most(beta, 200_000)

    def scores(reference: np.ndarray) -> np.ndarray:
        bad = rng.random((TRIALS, 1000)) < world.share
        drawn = rng.choice(world.raw - reference, (TRIALS, 1000)).astype(np.float32)
        return np.where(bad, drawn, world.good)

    assert _violations(world, scores(best)) > 0.1
    assert _violations(world, scores(bounds[2])) < 0.05
    assert _violations(world, scores(split)) < 0.05


def test_dropping_frames_because_of_their_counts_breaks_pac() -> None:
    """Leaving out frames "whose Monte Carlo abstains" leaves out the very frames that carry the errors."""
    rng = np.random.default_rng(2)
    world = World.make(0.1, 400, 0.1)
    scores = world.draw(rng, TRIALS, 1000)
    assert _violations(world, scores) == 0.0
    limit = np.float32(world.raw - world.true_radius)
    kept = np.where(scores > limit, -np.inf, scores)  # the same as recalibrating on the frames that remain
    assert _violations(world, kept) == 1.0


def test_frames_of_one_clip_are_not_independent_frames() -> None:
    """100 clips of 20 frames with intra-clip correlation .9 / .3 / .1, ranked as if they were 2,000 frames."""
    rng = np.random.default_rng(3)
    found = {}
    for correlation in (0.9, 0.3, 0.1, 0.0):
        clip = rng.normal(size=(TRIALS, 100, 1)) * np.sqrt(correlation)
        scores = clip + rng.normal(size=(TRIALS, 100, 20)) * np.sqrt(1 - correlation)
        offset = ranked(scores.reshape(TRIALS, 2000), GUARANTEE)
        found[correlation] = (norm.sf(offset) > float(GUARANTEE.alpha)).mean()
        single = ranked(scores[:, :, 0], GUARANTEE)
        assert (norm.sf(single) > float(GUARANTEE.alpha)).mean() <= at_most(0.05, TRIALS)
        whole = ranked(scores.max(axis=2), Guarantee.of("whole-clip", "0.2", "0.95", "0.1"))
        fresh = np.sqrt(correlation) * rng.normal(size=(4000, 1)) + np.sqrt(1 - correlation) * rng.normal(
            size=(4000, 20)
        )
        missed = 1 - np.searchsorted(np.sort(fresh.max(axis=1)), whole) / 4000
        assert (missed > 0.18 + 0.03).mean() <= at_most(
            0.05, TRIALS
        )  # .03: five deviations of the 4,000 fresh clips
    assert found[0.9] > 0.3 and found[0.3] > 0.1 and found[0.1] > 0.06
    assert found[0.0] <= at_most(0.05, TRIALS)


def test_choosing_the_best_of_many_on_the_calibration_split_breaks_pac() -> None:
    """Thirty maps that are equally good; the one with the smallest offset on the calibration frames is not innocent."""
    rng = np.random.default_rng(4)
    alpha = float(GUARANTEE.alpha)
    scores = rng.normal(size=(600, 30, 500)).astype(np.float32)
    offsets = ranked(scores.reshape(-1, 500), GUARANTEE).reshape(600, 30)
    assert (norm.sf(offsets.min(axis=1)) > alpha).mean() > 0.4
    tuning = ranked(rng.normal(size=(600 * 30, 300)).astype(np.float32), GUARANTEE).reshape(600, 30)
    chosen = offsets[np.arange(600), tuning.argmin(axis=1)]
    assert (norm.sf(chosen) > alpha).mean() <= at_most(0.05, 600)
    # The other way out: split delta over the thirty candidates, fixed beforehand.
    split = Guarantee.of("pac", "0.05", str(1 - 0.05 / 30), "0.1")
    careful = ranked(scores.reshape(-1, 500), split).reshape(600, 30)
    assert (norm.sf(careful.min(axis=1)) > alpha).mean() <= at_most(0.05, 600)


def test_the_smallest_offset_anywhere_whose_test_passes_breaks_pac() -> None:
    """Errors among issued that wave with the offset: fixed-sequence testing stops in front, "anywhere" jumps over."""
    rng = np.random.default_rng(5)
    steps, frames, alpha, delta = 30, 400, 0.09, 0.1
    guarantee = Guarantee.of("selective", "0.1", "0.9", "0.1")
    allowed = frames - (guarantee.rank(frames) or 0)
    # Thirty offsets, each with its own 400 issued frames; from the tenth on the true rate is just above alpha.
    rate = np.where(np.arange(steps) < 10, 0.05, alpha + 1e-3)
    passes = rng.binomial(frames, rate, (TRIALS, steps)) <= allowed
    first_failure = np.where(passes.all(axis=1), steps, np.argmin(passes, axis=1))
    assert 0.05 < (first_failure > 10).mean() <= at_most(delta, TRIALS)
    last_pass = steps - 1 - np.argmax(passes[:, ::-1], axis=1)
    assert (last_pass >= 10).mean() > 0.5


def test_beta_chosen_by_the_offset_it_gives_breaks_the_bound() -> None:
    """Keeping, frame by frame, the best of several betas' bounds is a look too many; one beta for all is not."""
    rng = np.random.default_rng(6)
    p, trials = 0.8, 400
    counts = rng.binomial(trials, p, 100_000)
    true = SIGMA * norm.ppf(p)
    # (1 - beta) differs between the betas, so the rank that belongs to .01 must not meet the reference of .3.
    bound = {beta: lower_radius(np.arange(trials + 1), trials, SIGMA, beta)[counts] for beta in (0.01, 0.3)}
    assert (bound[0.01] > true).mean() <= at_most(0.01, 100_000)
    assert (bound[0.3] > true).mean() > 0.2
