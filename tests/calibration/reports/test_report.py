"""The report: its numbers are those of the tables, its page is complete and self-contained."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta as beta_law
from scipy.stats import norm

from rrise.calibration import CalibrationError, CertifyCounts, CostEntry, CostLedger, Guarantee, calibrate
from rrise.calibration.promise.maps import staircase_map, step_map
from rrise.calibration.promise.offsets import reference_for
from rrise.calibration.reports.report import summary_rows, write_report
from rrise.calibration.reports.summary import ReportTables, coverage_rows, report_radii, rivals, summarise
from rrise.calibration.tables.latency import LatencyTable
from tests.calibration.helpers import EXECUTION, SIGMA, draw_scores

LEDGER = CostLedger(
    (
        CostEntry("base", trained=1000),
        CostEntry("targets-train", passes=50_000),
        CostEntry("targets-calibration", passes=40_000),
        CostEntry("targets-audit", passes=999_999),
        CostEntry("targets-certify-1000", passes=999_999),
        CostEntry("surrogate-fresh", passes=2_000, trained=1_000),
    )
)


def make_tables(latency: "LatencyTable | None" = None) -> ReportTables:
    scores = {
        split: draw_scores(seed, split=split, start=10_000 * seed, num_samples=2_000)
        for seed, split in enumerate(("calibration", "verification", "test"), start=1)
    }
    test = scores["test"]
    rng = np.random.default_rng(5)
    shares = (test.counts / test.num_samples[:, None]).astype(np.float64)
    draws = [np.array([rng.multinomial(budget, row) for row in shares], np.uint32) for budget in (100, 1000)]
    return ReportTables(
        calibration=calibrate(scores["calibration"], Guarantee.of(error="0.1")),
        scores=scores,
        certify=CertifyCounts(
            digest=test.digest,
            target=test.target,
            selection=draws[0],
            counts=np.stack(draws),
            budgets=(100, 1000),
            sigma=SIGMA,
            class_names=test.class_names,
            base_digest=test.base_digest,
        ),
        cost=LEDGER,
        frame_rate=30.0,
        latency=latency,
    )


@pytest.fixture(scope="module")
def tables() -> ReportTables:
    rng = np.random.default_rng(0)
    return make_tables(LatencyTable(rng.gamma(2, 60, 500), rng.gamma(2, 50, 500), "a test machine", 2e-5))


def test_certified_accuracy_is_recomputed_frame_by_frame(tables: ReportTables) -> None:
    numbers, radius, test = summarise(tables), tables.radius("test"), tables.scores["test"]
    for r, got in zip(numbers["radii"], numbers["certified_accuracy"]["rrise"]):
        hits = sum(
            1
            for label, size, true in zip(test.label, radius, test.target)
            if label == true and size > 0 and size >= r
        )
        assert got == pytest.approx(hits / len(test))
    assert numbers["radii"] == list(report_radii(SIGMA)) == [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75]


def test_coverage_intervals_are_clopper_pearson(tables: ReportTables) -> None:
    for row in coverage_rows(tables):
        k, n = row.exceeding, row.frames
        assert row.upper == pytest.approx(beta_law.ppf(0.975, k + 1, n - k))
        assert row.lower == pytest.approx(beta_law.ppf(0.025, k, n - k + 1) if k else 0.0)
    allowed = tables.calibration.num_frames - tables.calibration.rank
    assert coverage_rows(tables)[0].exceeding <= allowed


def test_coverage_counts_what_the_guarantee_speaks_of(tables: ReportTables) -> None:
    """A share of all frames would flatter a promise about clips or about issued certificates."""
    clips = {
        name: dataclasses.replace(table, clip=np.arange(len(table)) // 4)
        for name, table in tables.scores.items()
    }
    record = calibrate(clips["calibration"], Guarantee.of("whole-clip", error="0.4"))
    found = dataclasses.replace(tables, calibration=record, scores=clips)
    assert summarise(found)["wrong_among_issued"]["frames"] == len(np.unique(clips["test"].clip))
    row, table = coverage_rows(found)[1], clips["verification"]
    above = found.radius("verification") > reference_for(table, record.guarantee)
    assert row.unit == "clips" and row.frames == len(table) // 4
    assert row.exceeding == sum(above[table.clip == clip].any() for clip in np.unique(table.clip)) > 0

    plain = dataclasses.replace(tables, scores=clips)
    assert coverage_rows(plain)[1].frames == len(table) // 4, "one frame of each clip"

    chosen = calibrate(tables.scores["calibration"], Guarantee.of("selective", error="0.3"), threshold=0.3)
    issued = dataclasses.replace(tables, calibration=chosen)
    row = coverage_rows(issued)[1]
    assert row.unit == "certificates" and row.frames == (issued.radius("verification") > 0).sum() < len(table)


def test_a_second_use_of_the_calibration_split_is_shown(tables: ReportTables, tmp_path: Path) -> None:
    assert "attempt" not in dict(summary_rows(summarise(tables)))
    again = dataclasses.replace(tables, calibration=dataclasses.replace(tables.calibration, attempt=3))
    numbers = write_report(again, tmp_path)
    assert dict(summary_rows(numbers))["attempt"].startswith("3 of this product: calibrated more strictly")
    assert "the promise holds whichever attempt is kept" in (tmp_path / "report.html").read_text()


def test_the_offline_cost_leaves_out_base_training_and_evaluation(tables: ReportTables) -> None:
    numbers = summarise(tables)
    assert numbers["offline_passes"] == 50_000 + 40_000 + 2_000 + 3 * 1_000
    assert numbers["break_even"] == {"100": -(-95_000 // 99), "1000": -(-95_000 // 999)}


def test_latency_ratios_and_speed_up(tables: ReportTables) -> None:
    numbers = summarise(tables)["latency"]
    assert numbers["ratio"]["p50"] == numbers["certify_us"]["p50"] / numbers["bare_us"]["p50"]
    assert numbers["speed_up"] == pytest.approx(1000 * 2e-5 * 1e6 / numbers["certify_us"]["p50"])
    assert numbers["certify_us"]["max"] == tables.latency.certify.max()


def test_the_page_is_self_contained_and_carries_the_promise_and_its_limits(
    tables: ReportTables, tmp_path: Path
) -> None:
    numbers = write_report(tables, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert numbers["sentence"] in page and numbers["limits"] in page
    assert all(condition in page for condition in numbers["conditions"]) and numbers["conditions"]
    assert tables.calibration.execution.artefact in page and tables.calibration.base_digest in page
    assert f"certify {tables.latency.certify.max():,.0f} us" in page, "what the histogram cuts off is said"
    assert page.count("<svg") == 4 and "<script" not in page
    assert not re.findall(r'(?:src|href)="https?:', page)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(numbers))


def test_the_same_tables_give_the_same_bytes(tables: ReportTables, tmp_path: Path) -> None:
    write_report(tables, tmp_path / "a")
    write_report(tables, tmp_path / "b")
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()


def test_without_latency_the_report_says_nothing_about_speed(tmp_path: Path) -> None:
    numbers = write_report(make_tables(), tmp_path)
    assert numbers["latency"] is None
    assert not any("latency" in name or "time" in name for name, _ in summary_rows(numbers))
    assert (tmp_path / "report.html").read_text().count("<svg") == 3


def test_too_few_frames_give_a_report_of_nothing_issued(tables: ReportTables, tmp_path: Path) -> None:
    record = calibrate(tables.scores["calibration"].take(np.arange(10)), Guarantee.of())
    assert record.rank is None
    scores = {**tables.scores, "calibration": tables.scores["calibration"].take(np.arange(10))}
    numbers = write_report(dataclasses.replace(tables, calibration=record, scores=scores), tmp_path)
    assert numbers["issued"]["rrise"] == [0.0] * 7 and "too few" in numbers["message"]
    wrong = next(text for name, text in summary_rows(numbers) if name.strip() == "wrong among issued")
    assert wrong.split() == ["none"] * 7, "0.000 would say that none of some certificates was wrong"


def test_scores_of_another_execution_are_refused(tables: ReportTables) -> None:
    other = dataclasses.replace(
        tables.scores["test"], execution=dataclasses.replace(EXECUTION, version="2.0")
    )
    with pytest.raises(CalibrationError, match=r"another execution.*version: 2\.0 here"):
        dataclasses.replace(tables, scores={**tables.scores, "test": other})


def test_other_test_frames_than_certify_are_refused(tables: ReportTables) -> None:
    fewer = dataclasses.replace(tables.scores["test"].take(np.arange(50)))
    with pytest.raises(CalibrationError, match="other frames"):
        dataclasses.replace(tables, scores={**tables.scores, "test": fewer})


def test_a_missing_split_is_named(tables: ReportTables) -> None:
    with pytest.raises(CalibrationError, match="no scores of the verification split"):
        dataclasses.replace(tables, scores={name: tables.scores[name] for name in ("calibration", "test")})


def test_the_figure_of_a_step_shows_which_points_exceed(tables: ReportTables, tmp_path: Path) -> None:
    stepped = dataclasses.replace(
        tables, calibration=calibrate(tables.scores["calibration"], Guarantee.of(error="0.1"), step_map(0.2))
    )
    write_report(stepped, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "every certificate has radius 0.2" in page and "above the red stairs exceed" in page
    assert "issued (0.2) = reference" in page


def test_the_figure_of_a_staircase_has_a_corner_for_each_radius(tables: ReportTables, tmp_path: Path) -> None:
    stairs = staircase_map((0.1, 0.2), (0.1, 0.22))
    stepped = dataclasses.replace(
        tables, calibration=calibrate(tables.scores["calibration"], Guarantee.of(error="0.1"), stairs)
    )
    write_report(stepped, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert (
        "every certificate has one of the radii 0.1, 0.2" in page and "issued (0.1, 0.2) = reference" in page
    )


def test_net_and_its_gap_to_monte_carlo_are_recomputed_frame_by_frame(tables: ReportTables) -> None:
    """Right label, radius issued, and hits / draws at least Phi(radius / sigma), by scipy; the gap on the same frames."""
    numbers, radius, test = summarise(tables), tables.radius("test"), tables.scores["test"]
    hits = test.counts[np.arange(len(test)), test.label] / test.num_samples
    holds = radius <= SIGMA * norm.ppf(hits)
    monte_carlo = tables.certify.at(1000, 0.001)
    assert list(numbers["behind"]) == ["monte-carlo 1000"], "the largest budget, where none has 10,000"
    for place, r in enumerate(numbers["radii"]):
        worth = numbers["worth"]["rrise"][place]
        net = (test.label == test.target) & (radius > 0) & (radius >= r) & holds
        assert worth["net"]["hits"] == net.sum() <= worth["gross"]["hits"]
        issued = (radius > 0) & (radius >= r)
        assert (worth["wrong"]["hits"], worth["wrong"]["frames"]) == ((issued & ~holds).sum(), issued.sum())
        theirs = (monte_carlo.label == test.target) & (monte_carlo.radius > 0) & (monte_carlo.radius >= r)
        cell = numbers["behind"]["monte-carlo 1000"][place]
        assert cell["value"] == pytest.approx(np.mean(theirs) - np.mean(net))
    assert any(row["net"]["hits"] < row["gross"]["hits"] for row in numbers["worth"]["rrise"])


def test_differences_are_to_every_budget_from_ten_thousand_on() -> None:
    assert rivals((100, 1000, 10_000, 100_000)) == (10_000, 100_000)
    assert rivals((100, 1000)) == (1000,) and rivals(()) == ()


def test_the_report_shows_net_what_is_wrong_and_whether_the_audit_decides(
    tables: ReportTables, tmp_path: Path
) -> None:
    numbers = write_report(tables, tmp_path)
    rows, page = dict(summary_rows(numbers)), (tmp_path / "report.html").read_text()
    assert "cannot decide at 0.75" in rows["audit of certificates"]  # 2,000 draws prove at most .68
    assert (
        rows["  net of wrong ones"].strip().startswith(f"{numbers['worth']['rrise'][0]['net']['value']:.3f}")
    )
    for words in ("net, proved by the audit", "wrong among issued", "oracle", "behind Monte Carlo"):
        assert words in page
    few = dataclasses.replace(
        tables, calibration=calibrate(tables.scores["calibration"], Guarantee.of(error="0.5"))
    )
    assert numbers["wrong_among_issued"]["bound"] == pytest.approx(
        0.1 * len(tables.scores["test"]) / (tables.radius("test") > 0).sum()
    )
    assert "WARNING" in dict(summary_rows(summarise(few)))["wrong among issued"]
