"""CERTIFY against the original's formula written out with scipy and statsmodels, and its own guarantee."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from rrise.calibration import CalibrationError, CertifyCounts
from rrise.calibration.storage.files import read_arrays, write_arrays
from rrise.calibration.tables.certify import certify, check_budget, predict, smallest_certifying


def test_against_the_original_line_by_line() -> None:
    rng = np.random.default_rng(0)
    selection = rng.multinomial(100, [0.6, 0.3, 0.1], 50)
    counts = rng.multinomial(1000, [0.75, 0.15, 0.1], 50)
    counts[0], selection[1] = [1000, 0, 0], [0, 0, 100]
    found = certify(selection, counts, 0.5, 0.001)
    for row in range(50):
        # locuslab/smoothing core.py: c = argmax counts0; pABar = proportion_confint(nA, n, alpha=2 alpha, "beta")[0]
        label = int(selection[row].argmax())
        bound = proportion_confint(counts[row, label], 1000, alpha=0.002, method="beta")[0]
        expected = 0.5 * norm.ppf(bound) if bound >= 0.5 else 0.0
        assert found.label[row] == label
        assert found.radius[row] == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert found.radius[row] <= expected + 1e-12


def test_too_large_a_radius_with_probability_alpha_at_most() -> None:
    """40,000 certificates at p = .8, alpha .05: the binomial count stays below its 1 - 1e-9 quantile."""
    from scipy.stats import binom

    rng = np.random.default_rng(1)
    counts = rng.multinomial(500, [0.8, 0.2], 40_000)
    found = certify(np.tile([100, 0], (40_000, 1)), counts, 0.25, 0.05)
    wrong = int((found.radius > 0.25 * norm.ppf(0.8)).sum())
    assert wrong <= binom.ppf(1 - 1e-9, 40_000, 0.05)
    assert wrong > 0.02 * 40_000


def test_shapes_must_agree() -> None:
    with pytest.raises(CalibrationError, match="expected \\[n, K\\] twice"):
        certify(np.zeros((2, 3), int), np.zeros((2, 2), int), 0.25, 0.001)


def _table() -> CertifyCounts:
    rng = np.random.default_rng(0)
    counts = np.stack([rng.multinomial(n, [0.9, 0.1], 4) for n in (50, 500)]).astype(np.uint32)
    digest = np.array([b"%064d" % i for i in range(4)], "S64")
    return CertifyCounts(digest, np.zeros(4, int), counts[0], counts, (50, 500), 0.25, ("a", "b"), "b" * 64)


def test_round_trip_and_budgets(tmp_path: Path) -> None:
    table = _table()
    table.save(tmp_path / "certify.npz")
    again = CertifyCounts.load(tmp_path / "certify.npz")
    assert (again.counts == table.counts).all() and again.budgets == (50, 500)
    assert (
        again.at(500, 0.001).radius == certify(table.selection, table.counts[1], 0.25, 0.001).radius
    ).all()
    with pytest.raises(CalibrationError, match="got budget 100, expected one of"):
        again.at(100, 0.001)


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    _table().save(tmp_path / "c.npz")
    arrays, meta = read_arrays(tmp_path / "c.npz", "table", [])
    cases = [
        ({**arrays, "counts": arrays["counts"][:1]}, meta, "expected"),
        ({**arrays, "counts": arrays["counts"] + 1}, meta, "must sum to its budget"),
        ({**arrays, "counts": arrays["counts"].astype(float)}, meta, "expected integers"),
        (arrays, {**meta, "budgets": "x"}, "malformed"),
        (arrays, {**meta, "table": "scores"}, "got a table of 'scores', expected certify"),
    ]
    for broken, record, message in cases:
        write_arrays(tmp_path / "c.npz", broken, record)
        with pytest.raises(CalibrationError, match=message):
            CertifyCounts.load(tmp_path / "c.npz")


def test_predict_against_the_exact_binomial_test() -> None:
    rng = np.random.default_rng(2)
    counts = np.concatenate(
        [rng.multinomial(100, [0.5, 0.3, 0.2], 40), rng.multinomial(30, [0.4, 0.4, 0.2], 40)]
    )
    counts = np.concatenate([counts, [[0, 0, 0], [5, 5, 0], [7, 0, 0]]]).astype(np.uint32)
    for alpha in (0.001, 0.05):
        result = predict(counts, alpha)
        for row, label, abstained in zip(counts.tolist(), result.label, result.abstained):
            second, first = sorted(row)[-2:]
            value = stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
            assert abstained == (value > alpha) and row[label] == first
    assert predict(counts, 0.05).abstained[[-3, -2, -1]].tolist() == [True, True, False]


def test_predict_keeps_its_level() -> None:
    rng = np.random.default_rng(4)
    result = predict(rng.multinomial(400, [0.48, 0.52], 20_000), 0.05)
    wrong = (~result.abstained & (result.label == 0)).mean()
    assert wrong <= 0.05 and 0.001 < result.abstained.mean() < 1


@pytest.mark.parametrize(("alpha", "needed"), [(0.001, 10), (0.5, 2), (0.25, 3), (0.9, 1), (1e-6, 20)])
def test_the_smallest_budget_that_can_certify(alpha: float, needed: int) -> None:
    assert smallest_certifying(alpha) == needed
    all_hits = np.array([[needed, 0]], dtype=np.uint32)
    assert certify(all_hits, all_hits, 0.25, alpha).radius[0] > 0
    check_budget(1, needed, alpha)
    if needed > 1:
        fewer = np.array([[needed - 1, 0]], dtype=np.uint32)
        assert certify(fewer, fewer, 0.25, alpha).radius[0] == 0
        with pytest.raises(CalibrationError, match=f"expected at least {needed} samples"):
            check_budget(100, needed - 1, alpha)


def test_budgets_and_levels_that_make_no_sense_are_refused() -> None:
    with pytest.raises(CalibrationError, match="N0 = 0"):
        check_budget(0, 100, 0.001)
    for alpha in (0.0, 1.0, float("nan")):
        with pytest.raises(CalibrationError, match="expected a level"):
            check_budget(100, 100, alpha)
        with pytest.raises(CalibrationError, match="expected a level"):
            predict(np.zeros((1, 2), np.uint32), alpha)
    with pytest.raises(CalibrationError, match="at least two classes"):
        predict(np.zeros((3, 1), np.uint32), 0.05)
