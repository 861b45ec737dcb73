"""Certified accuracy, issued share and audit verdicts, by hand and by simulation with known p."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from rrise.calibration.tables.evaluation import (
    AuditVerdict,
    audit,
    certified_accuracy,
    issued_share,
    label_agreement,
    probit_rmse,
)
from tests.calibration.helpers import SIGMA, draw_scores

LABEL, TARGET = np.array([0, 1, 2, 0]), np.array([0, 1, 1, 0])
RADIUS = np.array([0.5, 0.25, 0.7, 0.0], np.float32)


def test_certified_accuracy_keeps_abstentions_in_the_denominator() -> None:
    assert certified_accuracy(LABEL, RADIUS, TARGET, [0.0, 0.25, 0.3, 0.6]).tolist() == [0.5, 0.5, 0.25, 0.0]


def test_issued_share_ignores_labels() -> None:
    assert issued_share(RADIUS, [0.0, 0.25, 0.3, 0.6]).tolist() == [0.75, 0.75, 0.5, 0.25]


def test_audit_by_hand() -> None:
    scores = draw_scores(0, 4, 10_000)
    counts = np.zeros_like(scores.counts)
    hits = np.array([9772, 9772, 9772, 10_000])  # Phi(2) = .97725, so the first three are at radius .5
    counts[np.arange(4), scores.label], counts[np.arange(4), (scores.label + 1) % 3] = hits, 10_000 - hits
    scores = replace(scores, counts=counts)
    verdict = audit(scores, np.array([0.3, 0.6, 0.5, 0.0], np.float32))
    assert verdict == AuditVerdict(frames=4, issued=3, wrong=1, right=1, undecided=1)
    assert verdict.wrong_at_most == 0.5


def test_audit_errs_no_more_often_than_its_level() -> None:
    """20,000 certificates just at the true radius, level .01: wrong and right verdicts each within 1 - 1e-9."""
    rng = np.random.default_rng(3)
    scores = draw_scores(0, 20_000, 1000, num_classes=2)
    true = rng.uniform(0.6, 0.99, 20_000)
    hits = rng.binomial(1000, true)
    counts = np.zeros_like(scores.counts)
    rows = np.arange(20_000)
    counts[rows, scores.label], counts[rows, 1 - scores.label] = hits, 1000 - hits
    scores = replace(scores, counts=counts)
    right_radius = (SIGMA * norm.ppf(true) * (1 - 1e-6)).astype(np.float32)
    wrong_radius = (SIGMA * norm.ppf(true) * (1 + 1e-6)).astype(np.float32)
    limit = binom.ppf(1 - 1e-9, 20_000, 0.01)
    assert 0 < audit(scores, right_radius, 0.01).wrong <= limit
    assert 0 < audit(scores, wrong_radius, 0.01).right <= limit


def test_label_agreement_and_rmse() -> None:
    scores = draw_scores(0, 3000, 100_000, noise=0.3)
    assert label_agreement(scores) == pytest.approx(norm.cdf(1.0), abs=0.03)  # p > 1/2 where the probit > 0
    assert probit_rmse(scores) == pytest.approx(0.3, abs=0.02)
    assert probit_rmse(draw_scores(1, 3000, 100_000, noise=0.0)) < 0.02
