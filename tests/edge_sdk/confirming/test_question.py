"""The theorem by simulation at the border, where it is hardest; and that the parts compute what they say."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.sequential import SequentialTest, exceeds, lower_confidence_sequence
from rrise.edge_sdk.confirming.question import Question
from rrise.edge_sdk.errors import EdgeError

SIGMA, ALPHA, RUNS, LOOKS, BATCH = 0.25, 0.05, 200, 20, 32


def _ever(true_radius, radius, what):
    """The share of inputs on which `what` is true at any look: the most that any clock can choose."""
    rng, p = np.random.default_rng(1), NormalDist().cdf(true_radius / SIGMA)
    count = 0
    for _ in range(RUNS):
        question = Question(1, radius, sigma=SIGMA, alpha=ALPHA)
        for _ in range(LOOKS):
            question.add((rng.random(BATCH) < p).astype(int))
            if what(question):
                count += 1
                break
    return count / RUNS


LIMIT = ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / RUNS)  # false alarm 3e-5


def test_a_radius_that_is_just_too_large_is_rarely_confirmed_at_any_time():
    assert _ever(0.1, 0.1 + 1e-9, lambda question: question.confirmed) <= LIMIT


def test_a_radius_that_just_holds_is_rarely_refuted_at_any_time():
    assert _ever(0.1, 0.1, lambda question: question.refuted) <= LIMIT


def test_what_is_proved_of_a_larger_radius_is_rarely_too_much_at_any_time():
    # The true radius lies between two eighths of what was issued.
    assert _ever(0.1, 0.3, lambda question: question.proved > 0.1) <= LIMIT
    assert _ever(-0.05, 0.3, lambda question: question.proved > 0.0) <= LIMIT


def test_clear_cases_are_settled():
    assert _ever(0.6, 0.2, lambda question: question.confirmed) > 0.9
    assert _ever(0.05, 0.5, lambda question: question.refuted) > 0.9


def test_one_look_at_the_bound_is_the_bisection():
    rng = np.random.default_rng(0)
    for _ in range(100):
        samples = int(rng.integers(1, 400))
        hits, bound = int(rng.integers(0, samples + 1)), float(rng.random())
        lower = float(lower_confidence_sequence(hits, samples, 0.01))
        if abs(lower - bound) > 1e-9:
            assert exceeds(hits, samples, bound, 0.01) == (lower > bound)
    assert not exceeds(0, 0, 0.0, 0.01) and exceeds(1, 1, 0.0, 0.01)
    with pytest.raises(CalibrationError):
        exceeds(3, 2, 0.5, 0.01)


def test_a_partly_proved_radius_is_what_the_product_test_proves():
    question = Question(1, 0.4, sigma=SIGMA, alpha=ALPHA)
    question.add(np.array([1] * 85 + [0] * 15))
    expected = SequentialTest(SIGMA, ALPHA).largest_confirmed(
        np.array([0.4]), np.array([85]), np.array([100])
    )
    assert 0 < expected[0] < 0.4
    assert question.proved == pytest.approx(expected[0]) and question.proved < expected[0]


def test_a_tolerance_is_taken_from_both_answers():
    p = NormalDist().cdf(0.5)  # radius = sigma / 2
    for share, sure in ((p + 0.04, "confirmed"), (p - 0.04, "refuted")):
        for tolerance, expected in ((0.0, True), (0.06, False)):
            question = Question(1, SIGMA / 2, sigma=SIGMA, alpha=ALPHA, tolerance=tolerance)
            hits = round(share * 20000)
            question.add(np.array([1] * hits + [0] * (20000 - hits)))
            assert getattr(question, sure) is expected
    never = Question(1, 0.5, sigma=SIGMA, alpha=ALPHA, tolerance=0.1)  # Phi(2) + .1 > 1
    never.add(np.ones(100_000, int))
    assert not never.confirmed and never.proved == 0.0


def test_a_void_question_answers_nothing():
    question = Question(1, 0.1, sigma=SIGMA, alpha=ALPHA)
    question.add(np.ones(1000, int))
    assert question.confirmed
    question.void = True
    assert not (question.confirmed or question.refuted) and question.proved == 0.0
    with pytest.raises(EdgeError, match="radius above 0"):
        Question(1, 0.0, sigma=SIGMA, alpha=ALPHA)
