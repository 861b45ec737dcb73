from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from statsmodels.stats.proportion import proportion_confint

from rrise.calibration.errors import CalibrationError
from rrise.calibration.tables.certify import CertifyCounts
from rrise.trainer.counts.certify import certify_test_split
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit


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


def test_samples_that_can_never_certify_are_refused(workspace: Path, tmp_path: Path) -> None:
    # 1e-40^(1/N) > 1/2 from N = 133 on
    copy = edit(copied(workspace, tmp_path), 'certify_alpha = "0.001"', 'certify_alpha = "1e-40"')
    with pytest.raises(CalibrationError, match="133 samples"):
        certify_test_split(copy)


def test_predict_against_a_computation_of_its_own(workspace: Path) -> None:
    """Cohen et al. 2019, section 3.2.1: a two-sided binomial test of the two highest counts."""
    made = Workspace.open(workspace)
    result, table = certify_test_split(made), CertifyCounts.load(made.certify_path)
    ordered = np.sort(table.selection, axis=1)
    tests = [binomtest(int(row[-1]), int(row[-1] + row[-2]), 0.5).pvalue <= 0.001 for row in ordered]
    right = np.array(tests) & (table.selection.argmax(axis=1) == table.target)
    assert result.predict_accuracy == pytest.approx(right.mean())
    assert result.predict_abstained == pytest.approx(1 - np.mean(tests))


def test_new_budget_draws_only_what_is_missing(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "certify = [100, 200]", "certify = [100, 300]")
    result = certify_test_split(copy)
    assert result.sampling.drawn == 40 * 300
    assert [row.num_samples for row in result.budgets] == [100, 300]
