"""Every promise holds and is attained in worlds with known p. Seeds are fixed; false-alarm probabilities are stated."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta as beta_law
from scipy.stats import betabinom, binom, chisquare, kstest, norm

from rrise.calibration import Guarantee, RadiusMap, Scores, calibrate
from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.maps import staircase_map, step_map
from rrise.calibration.promise.offsets import LEAST, excesses
from rrise.calibration.statistics.bounds import clopper_pearson_lower
from tests.calibration.helpers import SIGMA, draw_scores
from tests.calibration.worlds import World, at_most, ranked


def test_the_world_misses_with_probability_beta() -> None:
    for num_samples, beta in ((100, 0.2), (400, 0.1), (2000, 0.1)):
        assert beta - 1e-3 < World.make(0.1, num_samples, beta).miss <= beta


def test_marginal_holds_and_the_monte_carlo_factor_is_attained() -> None:
    """eps .1, beta .2, so alpha .08: the wrong share goes beyond alpha, up to eps. False alarm below 1e-6."""
    guarantee = Guarantee.of("marginal", "0.1", beta="0.2")
    rng = np.random.default_rng(0)
    world = World.make(0.096, 400, 0.2)
    wrong = world.wrong_share(ranked(world.draw(rng, 100, 40_000), guarantee))
    assert wrong.mean() <= 0.1
    assert wrong.mean() > 0.09 > float(guarantee.alpha)
    # A larger share of bad frames would break the promise, and the offset therefore rises above D.
    world = World.make(0.103, 400, 0.2)
    assert world.wrong_share(ranked(world.draw(rng, 100, 40_000), guarantee)).mean() < 0.02


@pytest.mark.parametrize(("num_samples", "beta"), [(200, "0.1"), (1000, "0.3")])
def test_pac_holds_and_is_attained(num_samples: int, beta: str) -> None:
    """Just above eps, every calibration that yields q < D is a violation: their share is delta, less the rank's slack."""
    guarantee = Guarantee.of("pac", "0.05", "0.95", beta)
    world = World.make(0.0501, num_samples, float(beta))
    offsets = ranked(world.draw(np.random.default_rng(1), 6000, 1000), guarantee)
    violations = (world.wrong_share(offsets) > 0.05).mean()
    assert violations <= at_most(0.05, 6000)
    assert violations > 0.03


def test_pac_with_frames_of_different_n() -> None:
    """Half of the frames have N = 100, half N = 1000; violations stay within delta and near it."""
    guarantee = Guarantee.of("pac", "0.05", "0.95", "0.1")
    rng = np.random.default_rng(2)
    few, many = World.make(0.0501, 100, 0.1), World.make(0.0501, 1000, 0.1)
    # Scores relative to each world's own D, so that one offset makes both kinds of bad frames wrong.
    shift = np.float32(few.raw - few.true_radius) - np.float32(many.raw - many.true_radius)
    scores = np.concatenate([few.draw(rng, 5000, 500), many.draw(rng, 5000, 500) + shift], axis=1)
    violations = (few.wrong_share(ranked(scores, guarantee)) > 0.05).mean()
    assert 0.03 < violations <= at_most(0.05, 5000)


def test_a_step_keeps_the_promise_and_attains_it() -> None:
    """Bad frames have a true radius just below the step; good ones have one above it. All lie beyond the step by a raw .05."""
    guarantee = Guarantee.of("pac", "0.05", "0.95", "0.1")
    world = World.make(0.0501, 400, 0.1)
    step = float(np.nextafter(np.float32(world.true_radius), np.float32(1)))
    counts = np.zeros((401, 3), np.uint32)
    counts[:, 0], counts[:, 1] = np.arange(401), 400 - np.arange(401)
    template = draw_scores(0, 401, 400)
    frames = replace(
        template,
        label=np.zeros(401, np.int64),
        probit=np.full(401, (step + 0.05) / SIGMA, np.float32),
        counts=counts,
    )
    head = CertificateHead(SIGMA, step_map(step))
    table = excesses(frames, head, guarantee)
    reached = table == LEAST  # Monte Carlo misses: the reference of a bad frame reaches the step
    miss = 1 - binom.cdf(np.flatnonzero(~reached).max(), 400, world.p)
    assert 0.099 < miss <= 0.1
    rng = np.random.default_rng(7)
    bad = rng.random((6000, 1000)) < world.share
    scores = np.where(bad, table[rng.binomial(400, world.p, (6000, 1000))], LEAST)
    wrong = [
        head.with_offset((float(offset),)).radius(frames.probit[:1], frames.label[:1])[0] > 0
        for offset in ranked(scores, guarantee)
    ]
    assert 0.03 < np.mean(wrong) <= at_most(0.05, 6000)


def test_a_staircase_keeps_the_promise_and_attains_it() -> None:
    """Bad frames have a true radius just below the first or just below the second step, and lie beyond it by a raw .05."""
    guarantee = Guarantee.of("pac", "0.05", "0.95", "0.1")
    world = World.make(0.0501, 400, 0.1)
    second = float(np.nextafter(np.float32(world.true_radius), np.float32(1)))
    low = float(clopper_pearson_lower(280, 400, 0.1)) * (1 - 1e-6)
    first = float(np.nextafter(np.float32(SIGMA * norm.ppf(low)), np.float32(1)))
    stairs = staircase_map((first, second), (0.2, 0.4))
    head, law = CertificateHead(SIGMA, stairs), np.array([low, world.p])
    counts = np.zeros((802, 3), np.uint32)
    counts[:, 0], counts[:, 1] = np.tile(np.arange(401), 2), 400 - np.tile(np.arange(401), 2)
    frames = replace(
        draw_scores(0, 802, 400),
        label=np.zeros(802, np.int64),
        probit=(np.repeat(np.array(stairs.thresholds) + 0.05, 401) / SIGMA).astype(np.float32),
        counts=counts,
    )
    table = excesses(frames, head, guarantee).reshape(2, 401)
    rng = np.random.default_rng(8)
    kind = rng.integers(0, 2, (6000, 1000))
    drawn = table[kind, rng.binomial(400, law[kind])]
    scores = np.where(rng.random((6000, 1000)) < world.share, drawn, LEAST)
    true = SIGMA * norm.ppf(law)
    violated = []
    for offset in ranked(scores, guarantee):
        radius = head.with_offset((float(offset),)).radius(frames.probit[[0, 401]], frames.label[:2])
        # Both kinds lie .05 beyond their step up to a rounding: half of the bad frames wrong is no violation.
        violated.append(world.share * np.mean(radius.astype(np.float64) > true) > 0.05)
    assert 0.03 < np.mean(violated) <= at_most(0.05, 6000)


def test_per_class_holds_in_each_class() -> None:
    """Classes of different hardness, one PAC offset each; violations counted class by class."""
    guarantee = Guarantee.of("per-class", "0.1", "0.9", "0.1")
    rng = np.random.default_rng(3)
    for share in (0.1002, 0.05, 0.2):
        world = World.make(share, 200, 0.1)
        violations = (world.wrong_share(ranked(world.draw(rng, 3000, 300), guarantee)) > 0.1).mean()
        assert violations <= at_most(0.1, 3000)
    # One offset for all classes together lets the hardest class have twice its share.
    parts = [World.make(share, 200, 0.1) for share in (0.02, 0.02, 0.2)]
    together = np.concatenate([part.draw(rng, 500, 300) for part in parts], axis=1)
    pooled = ranked(together, Guarantee.of("pac", "0.1", "0.9", "0.1"))
    assert (parts[2].wrong_share(pooled) > 0.1).mean() > 0.5


def test_one_frame_per_clip_and_whole_clips_hold() -> None:
    """Frames of a clip share their fate entirely; counts are their own. 100 clips of 20 frames."""
    rng = np.random.default_rng(4)
    world = World.make(0.1005, 200, 0.1)
    bad = np.repeat(rng.random((4000, 100)) < world.share, 20, axis=1)
    counts = rng.binomial(world.num_samples, world.p, (4000, 2000))
    scores = np.where(bad, world.table[counts], world.good).reshape(4000, 100, 20)
    single = ranked(scores[:, :, 7], Guarantee.of("pac", "0.1", "0.95", "0.1"))
    assert (world.wrong_share(single) > 0.1).mean() <= at_most(0.05, 4000)
    # A clip is wrong when any of its frames is: its share is the share of bad clips.
    whole = ranked(scores.max(axis=2), Guarantee.of("whole-clip", "0.1", "0.95", "0.1"))
    assert (world.wrong_share(whole) > 0.1).mean() <= at_most(0.05, 4000)


def _selective_trial(
    rng: np.random.Generator, num_frames: int
) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """True radius, raw radius and reference of frames whose surrogate errs more the larger its raw radius is."""
    raw = rng.uniform(-1.3, 0.7, num_frames)
    true = raw - 0.12 * np.maximum(raw, 0) * rng.exponential(1.0, num_frames)
    p = norm.cdf(true / SIGMA)
    table = draw_scores(0, num_frames, 400).num_samples
    return true, raw, np.stack([rng.binomial(400, p), table])


@pytest.fixture(scope="module")
def selective_runs() -> "dict[str, np.ndarray]":
    """Violations of P(wrong | issued) <= eps over 150 calibrations, for three rules."""
    rng = np.random.default_rng(5)
    guarantee = Guarantee.of("selective", "0.1", "0.9", "0.1")
    plain = Guarantee.of("pac", "0.1", "0.9", "0.1")
    true, raw, _ = _selective_trial(rng, 40_000)
    grid = np.linspace(0.3, 0.02, 9)
    runs: "dict[str, list[float]]" = {"threshold": [], "sequence": [], "plain": []}
    for trial in range(150):
        scores = _as_scores(rng, 400, trial)
        records = {
            "threshold": calibrate(scores, guarantee, threshold=0.28),
            "sequence": calibrate(scores, guarantee, offsets=grid.tolist()),
            "plain": calibrate(scores, plain),
        }
        heads = {name: record.head for name, record in records.items()}
        for name, head in heads.items():
            radius = head.radius((raw / SIGMA).astype(np.float32), np.zeros(len(raw), np.int64))
            issued = radius > 0
            runs[name].append(float((radius > true)[issued].mean()) if issued.any() else 0.0)
    return {name: np.array(values) for name, values in runs.items()}


def _as_scores(rng: np.random.Generator, num_frames: int, trial: int) -> Scores:
    _, raw, counts = _selective_trial(rng, num_frames)
    scores = draw_scores(0, num_frames, 400, num_classes=2, start=trial)
    table = np.zeros_like(scores.counts)
    table[np.arange(num_frames), scores.label] = counts[0]
    table[np.arange(num_frames), 1 - scores.label] = 400 - counts[0]
    return replace(scores, counts=table, probit=(raw / SIGMA).astype(np.float32))


@pytest.mark.parametrize("rule", ["threshold", "sequence"])
def test_selective_rules_hold_among_issued_frames(selective_runs: "dict[str, np.ndarray]", rule: str) -> None:
    """Violations at most delta = .1 over 150 calibrations, false alarm 1e-6; and the rules do issue certificates."""
    wrong = selective_runs[rule]
    assert (wrong > 0.1).mean() <= at_most(0.1, 150)
    assert (wrong > 0).mean() > 0.9


def test_the_threshold_rule_is_attained() -> None:
    """Half of the frames lie above the threshold, and just above eps of these are bad: violations come up to delta."""
    guarantee = Guarantee.of("selective", "0.05", "0.95", "0.1")
    rng = np.random.default_rng(8)
    world = World.make(0.0501, 400, 0.1)
    scores = world.draw(rng, 4000, 1000)
    violations = []
    for row, issued in zip(scores, rng.binomial(1000, 0.5, 4000)):
        violations.append(world.wrong_share(ranked(row[None, :issued], guarantee))[0] > 0.05)
    assert 0.025 < np.mean(violations) <= at_most(0.05, 4000)


def test_the_plain_rule_does_not_hold_among_issued_frames(selective_runs: "dict[str, np.ndarray]") -> None:
    assert (selective_runs["plain"] > 0.1).mean() > 0.5


@pytest.mark.parametrize("runs", [300, pytest.param(1000, marks=pytest.mark.long)])
def test_realised_coverage_follows_its_beta_law(runs: int) -> None:
    """Calibrations of 200 frames with uniform scores: coverage of the k-th smallest is Beta(k, n + 1 - k).

    Kolmogorov-Smirnov at level 1e-6.
    """
    rng = np.random.default_rng(6)
    base = draw_scores(0, 200, 50)
    nothing = np.zeros_like(base.counts)
    nothing[np.arange(200), (base.label + 1) % 3] = 50  # references of 0: the score is the raw radius itself
    for kind in ("pac", "marginal"):
        coverage, rank = [], 0
        for _ in range(runs):
            probit = rng.uniform(0, 1, 200).astype(np.float32)
            record = calibrate(replace(base, counts=nothing, probit=probit), Guarantee.of(kind))
            coverage.append(record.head.offset[0] / SIGMA)
            rank = record.rank or 0
        assert kstest(coverage, beta_law(rank, 201 - rank).cdf).pvalue > 1e-6


def test_errors_on_the_other_half_of_random_splits_are_beta_binomial() -> None:
    """1,000 random splits of one pool of 600 frames into 300 and 300; chi-square at level 1e-6."""
    rng = np.random.default_rng(7)
    pool = draw_scores(0, 600, 5000)
    head = CertificateHead(SIGMA, RadiusMap("identity", (), ()))
    excess = excesses(pool, head, Guarantee.of())
    excess = excess + rng.uniform(0, 1e-6, 600).astype(np.float32)  # the law is that of scores without ties
    assert len(np.unique(excess)) == 600
    rank = Guarantee.of().rank(300)
    assert rank is not None
    errors = []
    for _ in range(1000):
        order = rng.permutation(600)
        offset = np.sort(excess[order[:300]])[rank - 1]
        errors.append(int((excess[order[300:]] > offset).sum()))
    law = betabinom(300, 301 - rank, rank)
    edges = [int(law.ppf(share)) for share in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)]
    cells = np.bincount(np.searchsorted(edges, errors), minlength=7)
    expected = np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]])) * 1000
    assert chisquare(cells, expected).pvalue > 1e-6
