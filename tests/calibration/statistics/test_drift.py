"""The drift test: p-values that stay valid on one fixed reference set, false alarms, late changes, audits.

Statistical tests fix their seed; each states how improbable it is to fail on sound code.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.drift import (
    POWERS,
    DriftReference,
    PValues,
    SleepingMartingale,
    WrongRateTest,
    _upper_bounds,
)
from rrise.calibration.statistics.drift_power import frames_until_alarm


def test_bounds_are_clopper_pearson_limits_on_their_grid():
    count, delta = 400, 0.01
    bounds = _upper_bounds(count, delta)
    grid = [0]
    while grid[-1] < count:
        grid.append(min(max(grid[-1] + 1, int(grid[-1] * 1.3)), count))
    for k in grid[:-1]:
        assert bounds[k] == pytest.approx(
            stats.beta.ppf(1 - delta / (len(grid) - 1), k + 1, count - k), rel=1e-9
        )
    assert (np.diff(bounds) >= 0).all() and bounds[-1] == 1.0


def test_bounds_hold_simultaneously_with_the_stated_probability():
    """400 reference sets at delta = .1: more than 58 violations has probability 1e-3 if the true rate is .1."""
    rng, count, delta = np.random.default_rng(0), 300, 0.1
    bounds, violated = _upper_bounds(count, delta), 0
    for _ in range(400):
        # Uniform scores: the probability of a score at least s is 1 - s, largest just above each reference score.
        scores = np.sort(rng.random(count))
        reached = count - np.arange(count) - 1
        tail = 1 - scores
        violated += bool((tail > bounds[reached]).any())
    assert violated <= stats.binom.ppf(0.999, 400, delta)


@pytest.fixture(scope="module")
def reference():
    features = np.random.default_rng(1).normal(size=(1000, 5)) @ np.diag([1, 2, 3, 0.1, 10]) + 7
    return DriftReference.fit(features)


def _live(rng, shift=0.0, scale=1.0, n=1):
    return rng.normal(size=(n, 5)) * scale @ np.diag([1, 2, 3, 0.1, 10]) + 7 + shift


def test_p_values_are_not_too_small_on_frames_like_the_reference(reference):
    p_value, live = reference.p_values(), _live(np.random.default_rng(2), n=5000)
    values = p_value.of_frames(live)
    assert (values[0] == p_value(live[0])).all()
    assert values.shape == (5000, 11) and (values > 0).all() and (values <= 1).all()
    # Superuniform up to the sampling error of 5,000 draws (5 standard deviations at each level).
    for level in (0.01, 0.05, 0.2, 0.5, 0.9):
        share = (values <= level).mean(axis=0)
        assert (share <= level + 5 * math.sqrt(level * (1 - level) / len(values))).all()


def test_features_that_are_not_finite_count_as_extreme(reference):
    p_value = reference.p_values()
    high, low = p_value(np.full(5, 1e9)), p_value(np.full(5, -1e9))
    assert (
        high[0] == low[0] and (high[1:6] == low[6:]).all() and (high[6:] == 1).all() and (low[1:6] == 1).all()
    )
    odd = p_value(np.array([np.nan, 7, 7, 7, np.inf]))
    assert (
        odd[0] == high[0] > 0
        and (odd[[1, 5, 6, 10]] == high[1]).all()
        and (odd[[2, 3, 4, 7, 8, 9]] > 0.2).all()
    )


@pytest.mark.parametrize("sets", [50, pytest.param(120, marks=pytest.mark.long)])
def test_false_alarms_stay_below_alpha_plus_delta(sets):
    """Reference sets, each with 600 live frames, at alpha + delta = .055: of 120 at most 17 alarms but for 1e-4."""
    rng, alarms = np.random.default_rng(3), 0
    for seed in range(sets):
        fitted = DriftReference.fit(rng.normal(size=(240, 2)), seed=seed)
        p_value, test = fitted.p_values(), fitted.test()
        for p_values in p_value.of_frames(rng.normal(size=(600, 2))):
            test.update(p_values)
            if test.log_wealth >= -math.log(0.05):
                alarms += 1
                break
    assert alarms <= stats.binom.ppf(1 - 1e-4, sets, 0.055)


def test_given_the_reference_set_no_bet_is_favourable_except_with_delta():
    """The exact mean of every bet's factor given the set: plain conformal p-values often have means above 1."""
    rng, count, delta = np.random.default_rng(4), 200, 0.05
    corrected, plain = _upper_bounds(count, delta), (np.arange(count + 1) + 1) / (count + 1)
    powers = np.array(POWERS)[:, None]
    favourable = {"corrected": 0, "plain": 0}
    for _ in range(300):
        # Scores uniform: the probability of exactly k reference scores at or above a new one is a spacing.
        chances = np.diff(np.concatenate([[0.0], np.sort(rng.random(count)), [1.0]]))[::-1]
        for name, values in (("corrected", corrected), ("plain", plain)):
            means = (powers * values ** (powers - 1) * chances).sum(axis=1)
            favourable[name] += bool((means > 1 + 1e-12).any())
    assert favourable["corrected"] <= stats.binom.ppf(1 - 1e-4, 300, delta)
    assert favourable["plain"] > 60


def _autocorrelated(rng, count, correlation):
    rows, state = np.empty((count, 2)), rng.normal(size=2)
    for index in range(count):
        state = correlation * state + math.sqrt(1 - correlation**2) * rng.normal(size=2)
        rows[index] = state
    return rows


def test_one_frame_per_decorrelation_interval_keeps_the_promise_on_a_slow_stream():
    """AR(1) with correlation .98 a frame: every 250th frame (.006) is tested. Same bound as for independent frames."""
    rng, kept, all_frames = np.random.default_rng(5), 0, 0
    for seed in range(20):
        fitted = DriftReference.fit(rng.normal(size=(240, 2)), seed=seed)
        p_value = fitted.p_values()
        stream = _autocorrelated(rng, 10_000, 0.98)
        for rows, every in ((stream[::250], True), (stream[::1], False)):
            test = fitted.test()
            for p_values in p_value.of_frames(rows):
                test.update(p_values)
                if test.log_wealth >= -math.log(0.05):
                    kept, all_frames = kept + every, all_frames + (not every)
                    break
    assert kept <= stats.binom.ppf(1 - 1e-4, 20, 0.055)
    assert all_frames > 10  # the same stream tested at every frame: the condition is needed


def test_a_late_change_is_found_soon(reference):
    rng, p_value, test = np.random.default_rng(6), reference.p_values(), reference.test()
    for p_values in p_value.of_frames(_live(rng, n=2000)):
        test.update(p_values)
    assert test.log_wealth < math.log(200)
    delay = 0
    while test.log_wealth < math.log(200):
        test.update(p_value(_live(rng, scale=2.5)[0]))
        delay += 1
    assert delay <= 40


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_feature_that_shifts_by_one_standard_deviation_is_seen_within_the_hour(reference, shift):
    """120 frames are an hour at one every 30 s. The distance alone, as release 0.1 had it, sees nothing in a day."""
    rng, p_value, tests = np.random.default_rng(9), reference.p_values(), {}
    old = DriftReference.from_json({k: v for k, v in reference.to_json().items() if k != "features"})
    moved = _live(rng, n=2880) + np.array([0, 0, 3 * shift, 0, 0])
    for name, fitted, rows in (("now", reference, moved[:120]), ("then", old, moved)):
        tests[name], p_value = fitted.test(), fitted.p_values()
        for p_values in p_value.of_frames(rows):
            tests[name].update(p_values)
    assert tests["now"].log_wealth > math.log(200) > tests["then"].log_wealth
    assert len(old.p_values()(moved[0])) == 1


def test_what_will_be_seen_is_foretold(reference):
    """Against the whole test on live frames, whose other bets count as well: half to twice as many frames."""
    foretold = [frames_until_alarm(reference, shift, trials=3) for shift in (3.0, 1.5)]
    assert foretold[0] < foretold[1] < 60
    assert frames_until_alarm(reference, 0.1, trials=1, limit=200) == math.inf
    rng, p_value, test = np.random.default_rng(10), reference.p_values(), reference.test()
    while test.log_wealth < math.log(200):
        test.update(p_value(_live(rng)[0] + np.array([0, 3.0, 0, 0, 0])))
    assert foretold[1] / 2 <= test.martingale.seen <= 2 * foretold[1]
    late = frames_until_alarm(reference, 3.0, after=400, trials=3)
    assert foretold[0] < late < 60
    constant = DriftReference.fit(np.ones((200, 2)))
    assert math.isnan(frames_until_alarm(constant, 1.0))


def test_wealth_survives_json(reference):
    rng, p_value = np.random.default_rng(7), reference.p_values()
    whole, first = reference.test(), reference.test()
    rows = _live(rng, n=60, scale=1.3)
    for row in rows[:30]:
        whole.update(p_value(row))
        first.update(p_value(row))
    text = json.dumps(first.martingale.to_json())
    restored = DriftReference.from_json(json.loads(json.dumps(reference.to_json())))
    second, again = restored.test(json.loads(text)), restored.p_values()
    for row in rows[30:]:
        whole.update(p_value(row))
        second.update(again(row))
    assert second.log_wealth == whole.log_wealth and second.martingale.seen == 60
    fresh = SleepingMartingale(3)
    assert fresh.log_wealth == pytest.approx(0.0)
    assert SleepingMartingale.from_json(
        json.loads(json.dumps(fresh.to_json())), 3
    ).log_wealth == pytest.approx(0.0)


def test_sleeping_shares_sum_to_the_stake():
    """With factors of exactly 1 nothing is won or lost, however long."""
    martingale = SleepingMartingale(4)
    for _ in range(1000):
        martingale.update([0.0] * 4)
    assert martingale.log_wealth == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "value", [{}, {"seen": 3}, {"seen": 1, "log_awake": [0.0]}, {"seen": -1, "log_awake": [0.0, 0.0]},
              {"seen": 1, "log_awake": ["x", 0.0]}, {"seen": 1, "log_awake": [math.inf, 0.0]}],
)  # fmt: skip
def test_damaged_memories_are_refused(value):
    with pytest.raises(CalibrationError, match="reset"):
        SleepingMartingale.from_json(value, 2)


def test_damaged_references_are_refused(reference):
    for change in (  # type: ignore[var-annotated]
        {"mean": [0.0]},
        {"scores": []},
        {"delta": 0},
        {"precision": [[math.nan] * 5] * 5},
        {"mean": "x"},
        {"features": [[0.0, 1.0]]},
        {"features": [[math.nan] * 3] * 5},
        {"features": [0.0] * 5},
    ):
        with pytest.raises(CalibrationError, match="fit it again"):
            DriftReference.from_json({**reference.to_json(), **change})
    value = reference.to_json()
    del value["mean"]
    with pytest.raises(CalibrationError, match="fit it again"):
        DriftReference.from_json(value)


def test_unusable_features_are_refused():
    for features in (np.zeros((99, 2)), np.zeros(200), np.full((200, 2), np.nan)):
        with pytest.raises(CalibrationError, match="at least 100"):
            DriftReference.fit(features)
    constant = DriftReference.fit(np.column_stack([np.random.default_rng(0).normal(size=200), np.ones(200)]))
    assert isinstance(constant.p_values(), PValues) and np.isfinite(constant.scores).all()


def test_wrong_rate_false_alarms_and_power():
    """500 sequences at the level itself: at most 5 % alarms (41 but for 1e-4); three times the level is found."""
    rng, alarms, delays = np.random.default_rng(8), 0, []
    for _ in range(500):
        test = WrongRateTest(0.05)
        for wrong in rng.random(600) < 0.05:
            test.update(bool(wrong))
            if test.log_wealth >= math.log(20):
                alarms += 1
                break
    assert alarms <= stats.binom.ppf(1 - 1e-4, 500, 0.05)
    for _ in range(50):
        test, seen = WrongRateTest(0.05), 0
        while test.log_wealth < math.log(20):
            test.update(bool(rng.random() < 0.15))
            seen += 1
        delays.append(seen)
    assert np.median(delays) < 250
    for wrong in (0.0, 1.0, -1.0):
        with pytest.raises(CalibrationError, match="strictly between"):
            WrongRateTest(wrong)


def test_wrong_rate_factors_have_mean_one_at_the_level():
    test = WrongRateTest(0.02)
    right, wrong = (np.exp(logs) for logs in test._logs)
    np.testing.assert_allclose(0.02 * wrong + 0.98 * right, 1.0, rtol=1e-12)


def test_the_course_of_the_wealth_is_that_of_the_single_steps():
    factors = np.random.default_rng(4).normal(0.0, 0.5, (300, 6))
    martingale, steps = SleepingMartingale(6), []
    for row in factors:
        martingale.update(row)
        steps.append(martingale.log_wealth)
    np.testing.assert_allclose(SleepingMartingale.course(factors), steps, rtol=1e-9, atol=1e-9)
