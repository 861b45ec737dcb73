"""Certified accuracy, issued share and audit verdicts, by hand and by simulation with known p."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from rrise.calibration import Scores
from rrise.calibration.statistics.shares import Difference, Share
from rrise.calibration.tables.evaluation import (
    AuditVerdict,
    audit,
    audit_ceiling,
    audit_reach_note,
    certified_accuracy,
    draws_to_decide,
    issued_share,
    judge,
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


def four_frames() -> Scores:
    """True radii about .25 Phi^-1(.97725) = .5 and, for the last frame, beyond what 10,000 draws resolve."""
    scores = draw_scores(0, 4, 10_000)
    hits, counts = np.array([9772, 9772, 9772, 10_000]), np.zeros_like(scores.counts)
    counts[np.arange(4), scores.label], counts[np.arange(4), (scores.label + 1) % 3] = hits, 10_000 - hits
    return replace(scores, counts=counts)


def test_gross_net_wrong_and_oracle_by_hand() -> None:
    scores = four_frames()
    other = np.array([scores.label[0], scores.label[1], (scores.label[2] + 1) % 3, scores.label[3]])
    # Frame 0 holds, frame 1 claims too much, frame 2 has the wrong label (of radius -.5), frame 3 abstains.
    judged = judge(scores, np.array([0.3, 0.6, 0.1, 0.0], np.float32), label=other)
    at0, at4 = judged.worth([0.0, 0.4])
    assert [at0.gross.hits, at0.net.hits, at0.proved.hits, at0.not_refuted.hits] == [2, 1, 1, 1]
    assert (at0.issued.hits, at0.wrong.hits, at0.wrong.frames, at0.refuted.hits) == (3, 2, 3, 2)
    assert [at4.gross.hits, at4.net.hits, at4.issued.hits] == [1, 0, 1] and at4.oracle.hits == 4
    assert judged.verdict() == AuditVerdict(frames=4, issued=3, wrong=2, right=1, undecided=0)


def test_net_lies_between_what_is_proved_and_what_is_not_refuted() -> None:
    scores = draw_scores(0, 400, 300, noise=0.4)
    judged = judge(scores, np.maximum(SIGMA * scores.probit, 0).astype(np.float32))
    for row in judged.worth([0.0, 0.1, 0.3, 0.6]):
        assert row.proved.hits <= row.net.hits <= row.not_refuted.hits <= row.gross.hits
        assert row.net.hits <= row.oracle.hits
    assert judged.worth([0.1])[0].net.hits < judged.worth([0.1])[0].gross.hits


def test_a_guarded_certificate_is_judged_by_what_it_claims_around_the_clean_frame() -> None:
    scores, radius = four_frames(), np.full(4, 0.45, np.float32)
    assert judge(scores, radius).worth([0.4])[0].net.hits == 4
    assert judge(scores, radius, extra=0.1).worth([0.4])[0].net.hits == 1  # .55 is more than .5


def test_a_certificate_with_a_promise_of_its_own_counts_until_it_is_refuted() -> None:
    """A claim a hair above the audit's estimate: an audit of fewer draws than the certificate's own is no judge of it."""
    scores, radius = four_frames(), np.full(4, 0.5005, np.float32)
    assert judge(scores, radius).worth([0.4])[0].net.hits == 1
    assert judge(scores, radius, per_input=True).worth([0.4])[0].net.hits == 4
    assert judge(scores, radius + 0.1, per_input=True).worth([0.4])[0].net.hits == 1


def test_frames_of_unknown_class_count_for_no_accuracy() -> None:
    scores = replace(four_frames(), target=np.array([-1, -1, *four_frames().target[2:]]))
    row = judge(scores, np.array([0.3, 0.6, 0.6, 0.3], np.float32)).worth([0.0])[0]
    assert (row.gross.hits, row.gross.frames, row.net.hits, row.oracle.hits) == (2, 2, 1, 2)
    assert (row.issued.frames, row.wrong.hits, row.wrong.frames) == (4, 2, 4)


def test_an_audit_says_up_to_where_it_can_decide() -> None:
    """The ceiling by scipy: all of N hits prove p > level^(1/N)."""
    assert audit_ceiling(2000, SIGMA) == pytest.approx(SIGMA * norm.ppf(0.001 ** (1 / 2000)))
    needed = draws_to_decide(0.75, SIGMA)
    assert 0.001 ** (1 / needed) > norm.cdf(3.0) >= 0.001 ** (1 / (needed - 1))
    assert "enough for every radius" in audit_reach_note((0.0, 0.5), 2000, SIGMA)
    note = audit_reach_note((0.5, 0.75), 2000, SIGMA)
    assert "cannot decide at 0.75" in note and f"{needed:,} draws would" in note
    assert "cannot decide at 0.5" in audit_reach_note((0.5,), 2000, SIGMA, extra=0.2)
    row = judge(draw_scores(0, 5, 2000), np.zeros(5, np.float32)).worth([0.5, 0.75])
    assert [cell.decidable for cell in row] == [True, False]


def test_shares_and_differences_of_nothing_are_unknown() -> None:
    assert (Share.of(0, 0).lower, Share.of(0, 0).upper) == (0.0, 1.0)
    nothing = Difference.of(np.zeros(0, bool), np.zeros(0, bool))
    assert (nothing.lower, nothing.upper) == (-1.0, 1.0)
    counted = Difference.of(np.array([True, True, False]), np.array([False, True, True]))
    assert (counted.value, counted.lost, counted.won) == (0.0, 1, 1)
