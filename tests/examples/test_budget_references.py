"""The study of draws per reference runs on the published counts, and more draws never issue less."""

from __future__ import annotations

import itertools
import json

import pytest

from tests.examples.test_examples import run
from tests.examples.test_third_party_references import COUNTS, needs_counts


@needs_counts
def test_more_draws_issue_more() -> None:
    printed = run("examples/budget_references.py", COUNTS, "--seeds", "1", "--json")
    issued = json.loads(printed)["issued"]
    at_quarter = [issued[str(size)][0] for size in (100, 500, 2500, 10_000)]
    assert all(more > less - 0.005 for less, more in itertools.pairwise(at_quarter))
    # With noise of 0.35 on the probit, between the best that there is (65 %) and nothing.
    assert 0.4 < at_quarter[0] < at_quarter[-1] < 0.65
    # 100 draws cannot prove 0.5: the reference saturates at 0.25 Phi^-1(0.1^(1/100)) = 0.5 less what an offset costs.
    assert issued["100"][1] == pytest.approx(0, abs=0.01)
