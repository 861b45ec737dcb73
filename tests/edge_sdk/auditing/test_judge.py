"""Verdicts against classifiers whose true radius is known, and the pace."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from rrise.edge_sdk.auditing.judge import Pace, Verdict, judge_certificate
from rrise.edge_sdk.errors import EdgeError

SIGMA = 0.25
X = np.full((1, 2, 2), 0.5, np.float32)


def _half_space(distance):
    """Label 1 within `distance` of X along the first pixel: the true radius is `distance`."""
    return lambda x: (x[:, 0, 0, 0] < 0.5 + distance).astype(np.int64)


def _judge(classify, radius, seed=0, **changes):
    settings = {"sigma": SIGMA, "slip": 0.001, "max_samples": 2000, "batch_size": 16, **changes}
    return judge_certificate(classify, X, 1, radius, generator=np.random.default_rng(seed), **settings)


def test_clear_cases_are_decided_soon():
    right, wrong = _judge(_half_space(0.5), 0.2), _judge(_half_space(0.1), 0.5)
    assert right.verdict is Verdict.RIGHT and right.samples < 600
    assert wrong.verdict is Verdict.WRONG and wrong.samples < 200
    assert _judge(_half_space(-0.3), 0.01).verdict is Verdict.WRONG


def test_a_close_case_stays_open_after_full_batches():
    judgement = _judge(_half_space(0.3), 0.3, max_samples=100)
    assert judgement.verdict is Verdict.UNDECIDED and judgement.samples == 112


def test_right_certificates_are_called_wrong_no_more_often_than_promised():
    """At the very border, where it is hardest: 200 audits at slip 0.05."""
    calls = [
        _judge(_half_space(0.25), 0.25, seed, slip=0.05, max_samples=256, batch_size=64).verdict
        for seed in range(200)
    ]
    wrong = sum(call is Verdict.WRONG for call in calls)
    assert wrong <= 200 * 0.05 + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_slightly_too_large_a_radius_is_found_with_enough_samples():
    found = [_judge(_half_space(0.3), 0.45, seed).verdict for seed in range(10)]
    assert found.count(Verdict.WRONG) == 10
    assert NormalDist().cdf(0.45 / SIGMA) - NormalDist().cdf(0.3 / SIGMA) < 0.08


def test_a_tolerance_forgives_as_much_and_no_more():
    """True radius .25 beside a claim of .3: their probabilities differ by .0437 at sigma .25."""
    gap = NormalDist().cdf(0.3 / SIGMA) - NormalDist().cdf(0.25 / SIGMA)
    assert gap == pytest.approx(0.0437, abs=1e-3)
    for tolerance, verdict in ((0.0, Verdict.WRONG), (0.01, Verdict.WRONG), (0.05, Verdict.UNDECIDED)):
        judgement = _judge(_half_space(0.25), 0.3, max_samples=20_000, batch_size=500, tolerance=tolerance)
        assert judgement.verdict is verdict
    # And what is right must be right by more than it.
    assert _judge(_half_space(0.3), 0.25, max_samples=20_000, batch_size=500).verdict is Verdict.RIGHT
    open_one = _judge(_half_space(0.3), 0.25, max_samples=20_000, batch_size=500, tolerance=0.05)
    assert open_one.verdict is Verdict.UNDECIDED


def test_a_classifier_that_fails_is_an_error():
    with pytest.raises(EdgeError, match="NaN"):
        _judge(lambda x: np.full((len(x), 3), np.nan), 0.1)


def test_the_pace_is_never_above_the_rate():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds / 2 + 1e-3  # wakes early, as clocks do

    pace, starts = Pace(50.0, lambda: now[0], sleep), []
    for _ in range(20):
        pace.wait(10)
        starts.append(now[0])
    assert min(np.diff(starts)) >= 10 / 50.0 - 1e-9
    for rate in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(EdgeError, match="rate"):
            Pace(rate)
