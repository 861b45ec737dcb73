from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from calibration.certify import CertifyCounts
from tests.trainer.helpers import copied, edit
from trainer.certify import certify_test_split, check_budgets
from trainer.errors import TrainerError
from trainer.workspace import Workspace


def test_accuracy_against_a_computation_of_its_own(workspace: Path) -> None:
    """Cohen et al. 2019, with the one-sided bound as the two-sided one at 2 alpha."""
    made = Workspace.open(workspace)
    result = certify_test_split(made)
    table = CertifyCounts.load(made.certify_path)
    label = table.selection.argmax(axis=1)
    for number, size in enumerate((100, 200)):
        hits = table.counts[number][np.arange(40), label]
        lower = proportion_confint(hits, size, alpha=0.002, method="beta")[0]
        certified = (lower > 0.5) & (label == table.target)
        radius = 0.25 * norm.ppf(lower)
        expected = [np.mean(certified & (radius >= r)) for r in result.radii]
        np.testing.assert_allclose(result.budgets[number].accuracy, expected)
        assert result.budgets[number].abstained == pytest.approx(np.mean(lower <= 0.5))


def test_samples_that_can_never_certify_are_refused() -> None:
    # 0.001^(1/N) > 1/2 from N = 10 on
    check_budgets((10, 100), 0.001)
    with pytest.raises(TrainerError, match="at least 10 samples"):
        check_budgets((9, 100), 0.001)
    # alpha = 1/2: one sample bounds p by exactly 1/2, which does not certify
    check_budgets((2,), 0.5)
    with pytest.raises(TrainerError, match="at least 2 samples"):
        check_budgets((1,), 0.5)


def test_new_budget_draws_only_what_is_missing(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "certify = [100, 200]", "certify = [100, 300]")
    result = certify_test_split(copy)
    assert result.sampling.drawn == 40 * 300
    assert [row.num_samples for row in result.budgets] == [100, 300]
