"""The guarded tier: exact grid noise, the tightened level, and simulations with the worst adversary."""

import functools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp
from scipy.stats import chi2, kstest, norm

from rrise.calibration import CalibrationError, Guarantee, calibrate, check_rank
from rrise.calibration.promise.guarded import GRID, Guard, NoiseSource, guarded_reference
from rrise.calibration.promise.offsets import label_reference, smallest_offsets
from rrise.calibration.statistics.bounds import reference_radius
from tests.calibration.helpers import draw_scores
from tests.calibration.worlds import at_most


@pytest.mark.parametrize("error", ["0.001", "0.01", "0.05", "0.1", "1/3"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0, 2.0, 3.0])
def test_level_is_the_formula_rounded_down(error: str, ratio: float) -> None:
    level = Guard(ratio * 0.125, 0.125).level(Fraction(error))
    exact = norm.cdf(norm.ppf(float(Fraction(error))) - ratio)
    assert float(level) <= exact
    assert float(level) == pytest.approx(exact, rel=2e-6)


@pytest.mark.parametrize("error", ["0.05", "0.001", "1e-6"])
def test_level_is_rounded_down_in_the_tail_too(error: str) -> None:
    """Against forty digits. In double precision 1 - Phi(z) has lost its last ones long before the level is 1e-15."""
    with mp.workdps(40):
        wanted = mp.mpf(Fraction(error).numerator) / Fraction(error).denominator
        start = mp.findroot(lambda z: mp.ncdf(z) - wanted, norm.ppf(float(Fraction(error))))
        for ratio in np.linspace(0.0, 7.0, 60):
            exact = mp.ncdf(start - mp.mpf(float(ratio)))
            if exact < 2e-15:
                break
            level = Guard(float(ratio), 1.0).level(Fraction(error))
            found = mp.mpf(level.numerator) / level.denominator
            assert exact * (1 - 2e-6) < found <= exact


def test_least_frames_of_the_documentation() -> None:
    found = [
        Guarantee.of("pac", error, "0.95", "0.1", Guard(rho, 1.0)).frames_needed()
        for error in ("0.05", "0.01")
        for rho in (0.5, 1.0, 2.0)
    ]
    assert found == pytest.approx([207, 814, 24_882, 1_413, 7_565, 439_122], rel=1e-5)
    assert found[:5] == [207, 814, 24_882, 1_413, 7_565]


@pytest.mark.parametrize(
    ("rho", "noise", "message"),
    [
        (-0.1, 0.1, "rho: got"),
        (math.nan, 0.1, "rho: got"),
        (math.inf, 0.1, "rho: got"),
        (0.1, 0.0, "noise: got"),
        (0.1, math.nan, "noise: got"),
    ],
)
def test_impossible_guards_are_refused(rho: float, noise: float, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Guard(rho, noise)


def test_a_guard_that_leaves_no_level_is_refused() -> None:
    with pytest.raises(CalibrationError, match="leaves no error level"):
        Guard(1.0, 0.1).level(Fraction(1, 20))


@pytest.mark.parametrize("kind", ["selective", "per-class", "whole-clip"])
def test_guarantees_that_do_not_survive_an_attack_are_refused(kind: str) -> None:
    with pytest.raises(CalibrationError, match="expected 'pac' or 'marginal'"):
        Guarantee.of(kind, guard=Guard(0.1, 0.1))


def test_json_and_words() -> None:
    guarantee = Guarantee.of(guard=Guard(0.1, 0.12))
    assert Guarantee.from_json(guarantee.to_json()) == guarantee
    assert "attacker" in guarantee.sentence() and "0.12" in guarantee.sentence()
    assert "by more than 0.1" in guarantee.limits()
    assert guarantee.ten_times_smaller().guard == guarantee.guard


def test_guarded_reference_is_lowered_rounded_down_and_clipped() -> None:
    reference = np.linspace(0, 1, 1001, dtype=np.float32)
    found = guarded_reference(reference, 0.3)
    assert found.dtype == np.float32 and (found[reference < 0.2999] == 0).all()
    assert (found.astype(np.float64) <= np.maximum(reference.astype(np.float64) - 0.3, 0)).all()
    assert found == pytest.approx(np.maximum(reference - 0.3, 0), abs=1e-7)


def test_calibration_of_a_guarded_pass_compares_with_the_lowered_reference() -> None:
    scores = draw_scores(0, 1000)
    guarantee = Guarantee.of("pac", "0.1", guard=Guard(0.1, 0.2))
    record = calibrate(scores, guarantee)
    radius = record.head.radius(scores.probit, scores.label)
    lowered = guarded_reference(label_reference(scores, 0.1), 0.1)
    assert int((radius > lowered).sum()) <= 1000 - record.rank
    assert check_rank(scores, radius, record)
    plain = calibrate(scores, replace(guarantee, guard=None))
    assert record.head.offset[0] > plain.head.offset[0] + 0.05
    assert not check_rank(scores, plain.head.radius(scores.probit, scores.label), record)


def test_noise_is_on_the_grid_and_sums_are_exact() -> None:
    noise = NoiseSource(0.25, seed=0).draw((50, 3, 32, 32))
    assert noise.dtype == np.float32 and noise.shape == (50, 3, 32, 32)
    assert (noise / GRID == np.rint(noise / GRID)).all()
    pixels = np.random.default_rng(0).integers(0, 256, noise.shape).astype(np.float32)
    assert ((pixels + noise).astype(np.float64) == pixels.astype(np.float64) + noise.astype(np.float64)).all()
    assert ((pixels + noise) - noise == pixels).all()


def test_noise_is_gaussian() -> None:
    """Mean, variance and shape of 10^6 values at false alarm 1e-6 each; the grid is far finer than the deviation."""
    noise = NoiseSource(0.12, seed=1).draw((1_000_000,)).astype(np.float64) / (255 * 0.12)
    assert abs(noise.mean()) < 4.9e-3
    assert chi2.ppf(5e-7, 1e6) < (noise**2).sum() < chi2.ppf(1 - 5e-7, 1e6)
    assert (
        kstest(
            noise[:100_000] + np.random.default_rng(0).uniform(-0.5, 0.5, 100_000) * GRID / 30.6, "norm"
        ).pvalue
        > 1e-6
    )


def test_two_sources_and_two_draws_differ() -> None:
    one, two = NoiseSource(0.1), NoiseSource(0.1)
    first = one.draw((1000,))
    assert (first != two.draw((1000,))).mean() > 0.99 and (first != one.draw((1000,))).mean() > 0.99


@pytest.mark.parametrize("noise", [0.0, -0.1, 7.0, math.nan, math.inf])
def test_noise_that_cannot_be_exact_is_refused(noise: float) -> None:
    with pytest.raises(CalibrationError, match="guard noise: got"):
        NoiseSource(noise)


# The worst adversary. Frames differ in nothing; along one direction the raw radius of z = X + e is A + z, so the frames
# on which it is too large form a half-space, for which the Gaussian shift lemma is sharp. The attacker moves by rho.
RHO = NOISE = 0.25
SIGMA, P, DRAWS, BETA = 0.25, 0.99, 100_000_000, "0.01"
TRUE = SIGMA * norm.ppf(P)
LEVEL = 1.0  # A
LEAST = round(DRAWS * P) - 8000


@functools.cache
def _table() -> np.ndarray:
    """References of all counts within eight deviations of the mean, from `LEAST` on."""
    counts = np.arange(LEAST, LEAST + 16_000)
    return reference_radius(counts[:, None], np.full(len(counts), DRAWS), SIGMA, float(BETA))[:, 0]


def _offset(guarantee: Guarantee, rng: np.random.Generator, num_frames: int, rho: float) -> float:
    """Offset from `num_frames` frames, one noise each, with rho in the score as given."""
    reference = _table()[rng.binomial(DRAWS, P, num_frames) - LEAST]
    raw = (LEVEL + rng.normal(0, NOISE, num_frames)).astype(np.float32)
    rank = guarantee.rank(num_frames)
    assert rank is not None
    return float(np.sort(smallest_offsets(raw, guarded_reference(reference, rho)))[rank - 1])


def _wrong(offset: float, shift: float) -> float:
    """Probability that the radius around what was delivered, `shift` away, exceeds R* - rho; exactly."""
    return float(norm.sf((TRUE - RHO + offset - LEVEL - shift) / NOISE))


def test_the_bound_holds_and_is_sharp_under_the_worst_attack() -> None:
    """eps .05: about .0495 with beta .01, and never more than eps by more than the calibration's own noise."""
    rng = np.random.default_rng(0)
    guarantee = Guarantee.of("marginal", "0.05", beta=BETA, guard=Guard(RHO, NOISE))
    attacked = np.array([_wrong(_offset(guarantee, rng, 50_000, RHO), RHO) for _ in range(20)])
    assert 0.046 < attacked.mean() <= 0.05
    clean = np.array([_wrong(_offset(guarantee, rng, 50_000, RHO), 0.0) for _ in range(3)])
    assert clean.max() < 0.006  # nobody attacks: the level alpha' itself


def test_pac_holds_under_attack() -> None:
    rng = np.random.default_rng(1)
    guarantee = Guarantee.of("pac", "0.05", "0.9", BETA, Guard(RHO, NOISE))
    attacked = np.array([_wrong(_offset(guarantee, rng, 5000, RHO), RHO) for _ in range(300)])
    assert 0.02 < (attacked > 0.05).mean() <= at_most(0.1, 300)


def test_without_rho_in_the_score_the_bound_breaks() -> None:
    rng = np.random.default_rng(2)
    guarantee = Guarantee.of("marginal", "0.05", beta=BETA, guard=Guard(RHO, NOISE))
    assert _wrong(_offset(guarantee, rng, 50_000, 0.0), RHO) > 0.15


def test_without_the_lowered_level_the_bound_breaks() -> None:
    rng = np.random.default_rng(3)
    guarantee = Guarantee.of("marginal", "0.05", beta=BETA)
    assert _wrong(_offset(guarantee, rng, 50_000, RHO), RHO) == pytest.approx(
        norm.cdf(norm.ppf(0.05) + 1), abs=0.02
    )


def test_ten_passes_of_one_frame_break_the_bound() -> None:
    rng = np.random.default_rng(4)
    guarantee = Guarantee.of("marginal", "0.05", beta=BETA, guard=Guard(RHO, NOISE))
    offset = _offset(guarantee, rng, 50_000, RHO)
    best = LEVEL + RHO + rng.normal(0, NOISE, (20_000, 10)).max(axis=1) - offset
    assert (best > TRUE - RHO).mean() > 0.35


def test_noise_that_the_sender_knows_breaks_everything() -> None:
    """Radii that are too large on thin slabs, less than 2 rho apart: harmless against fresh noise, fatal against known."""
    rng = np.random.default_rng(5)
    guarantee = Guarantee.of("marginal", "0.05", beta=BETA, guard=Guard(RHO, NOISE))
    width = 2 * RHO * float(guarantee.alpha) * 0.9
    noise = rng.normal(0, NOISE, 200_000)

    def in_slab(z: np.ndarray) -> np.ndarray:
        return np.mod(z, 2 * RHO) < width

    assert in_slab(noise).mean() < float(guarantee.alpha) * 1.2
    fresh = max(in_slab(shift + noise).mean() for shift in np.linspace(-RHO, RHO, 41))
    assert fresh <= 0.05
    known = noise + np.clip(-(np.mod(noise + RHO, 2 * RHO) - RHO) + width / 2, -RHO, RHO)
    assert np.abs(known - noise).max() < RHO * (1 + 1e-12) and in_slab(known).mean() == 1.0


def test_noise_as_a_function_of_the_frame_breaks_the_bound() -> None:
    """Noise seeded by the frame's own bytes: among a few thousand invisible changes one draws what the sender likes."""
    rng = np.random.default_rng(6)
    guarantee = Guarantee.of("marginal", "0.05", beta=BETA, guard=Guard(RHO, NOISE))
    offset = _offset(guarantee, rng, 50_000, RHO)
    best_of_seeds = LEVEL + rng.normal(0, NOISE, (500, 2000)).max(axis=1) - offset
    assert (best_of_seeds > TRUE - RHO).mean() > 0.95
