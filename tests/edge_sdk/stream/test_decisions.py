"""k of n."""

from __future__ import annotations

import pytest

from rrise.edge_sdk import Certificate, EdgeError, KOfN, Status


def _vote(label, radius=0.5):
    status = Status.CERTIFIED if radius else Status.ABSTAINED
    return Certificate(status, label, f"class {label}", radius, 0.0, 0.0, 0.0, None, "")


def test_a_decision_needs_k_certified_votes_for_one_label():
    rule = KOfN(3, 4)
    assert [rule.update(_vote(1, radius)) is not None for radius in (0.5, 0.0, 0.4)] == [False, False, False]
    decision = rule.update(_vote(1, 0.7))
    assert (decision.label, decision.name, decision.votes, decision.radius) == (1, "class 1", 3, 0.4)
    assert rule.update(_vote(2, 0.9)) is None
    rule.reset()
    assert [bool(rule.update(_vote(2))) for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(("k", "n"), [(0, 3), (4, 3), (1, 2), (2, 4), (-1, 1)])
def test_rules_in_which_two_labels_could_win_are_refused(k, n):
    with pytest.raises(EdgeError, match="more than half"):
        KOfN(k, n)
