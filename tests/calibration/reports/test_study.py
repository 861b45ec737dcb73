"""Studies: right numbers, right warnings, a self-contained page, and never a look at the calibration split."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from rrise.calibration import CalibrationError, Guarantee
from rrise.calibration.promise.crossfit import cross_fitted_radii, fit_map
from rrise.calibration.promise.fit import calibrate
from rrise.calibration.reports.guard_study import study_guard
from rrise.calibration.reports.study import make_study
from rrise.calibration.reports.study_page import write_study
from tests.calibration.helpers import SIGMA, draw_scores

TUNING = draw_scores(1, 300, 2000, noise=0.3, split="tuning")
ERRORS = (Fraction("0.001"), Fraction("0.05"), Fraction("0.2"))
STUDY = make_study(TUNING, Guarantee.of(), errors=ERRORS, num_calibration=400, frame_rate=10.0)


def test_levels_say_what_they_need_permit_and_give() -> None:
    assert [row.error for row in STUDY.levels] == ["0.001", "0.05", "0.2"]
    assert [row.frames_needed for row in STUDY.levels] == [3328, 66, 16]
    assert [row.enough for row in STUDY.levels] == [False, True, True]
    assert STUDY.levels[1].wrong_per_hour == pytest.approx(0.05 * 10 * 3600)
    issued = np.array([row.issued for row in STUDY.levels])
    assert (np.diff(issued[:, 0]) > 0).all() and (np.diff(issued, axis=1) <= 0).all()


def test_map_rows_are_the_cross_fitted_shares_and_gains_over_the_plain_offset() -> None:
    rows = {row.name: row for row in STUDY.maps}
    found = cross_fitted_radii(TUNING, Guarantee.of(), "clopper-pearson", num_calibration=400)
    assert rows["clopper-pearson"].issued[2] == pytest.approx(float(np.mean(found >= 0.5)))
    assert rows["identity"].gain == (0.0,) * 4
    for row in STUDY.maps:
        assert row.gain == pytest.approx(np.array(row.issued) - np.array(rows["identity"].issued))


def test_net_leaves_out_what_the_frames_own_draws_call_too_large() -> None:
    """By scipy, on the cross-fitted radii themselves."""
    found = cross_fitted_radii(TUNING, Guarantee.of(), "identity", num_calibration=400)
    hits = TUNING.counts[np.arange(300), TUNING.label] / TUNING.num_samples
    holds = found <= SIGMA * norm.ppf(hits)[None]
    row = next(row for row in STUDY.maps if row.name == "identity" and not row.difficulty)
    for place, r in enumerate(STUDY.radii):
        issued = (found > 0) & (found >= r)
        assert row.net[place] == pytest.approx(np.mean(issued & holds & (TUNING.label == TUNING.target)))
        assert row.wrong[place] == pytest.approx((issued & ~holds).sum() / max(issued.sum(), 1))
    assert 0 < row.wrong[0] < 1


def test_levels_stand_side_by_side_gross_and_net(tmp_path: Path) -> None:
    made = make_study(TUNING, Guarantee.of(), errors=(Fraction("0.1"), Fraction("0.05"), Fraction("0.2")))
    page = write_study(made, tmp_path)[0].read_text()
    for words in ("Radius 0.25, oracle", ">gross</th>", ">net</th>", ">wrong/issued</th>", "90 % range"):
        assert words in page
    assert "gross, error 0.2" not in page
    strict, loose = made.levels[0], made.levels[-1]
    assert loose.accuracy[1] - loose.net[1] > strict.accuracy[1] - strict.net[1] >= 0, (
        "a loose level flatters more"
    )
    assert loose.among_issued > strict.among_issued and "more than a fifth" in page.replace("\n", " ")


def test_classes_add_up_to_the_whole() -> None:
    assert [row.frames for row in STUDY.classes] == np.bincount(TUNING.label, minlength=3).tolist()
    weighted = sum(row.frames * row.issued[0] for row in STUDY.classes) / 300
    best = next(row for row in STUDY.levels if row.error == "0.05")
    assert weighted == pytest.approx(best.issued[0])
    assert all(a <= i + 1e-12 for row in STUDY.classes for a, i in zip(row.accuracy, row.issued))


def test_page_and_json_are_complete_and_self_contained(tmp_path: Path) -> None:
    html, data = write_study(STUDY, tmp_path / "out")
    text = html.read_text()
    assert text.count("<svg") == 3 and "<script" not in text and "url(http" not in text
    assert not re.search(r"(src|href)=[\"']https?:", text)
    for words in (
        "under these conditions",
        "distribution shift",
        "frames needed",
        "Predicted classes",
        "class 2",
    ):
        assert words in text
    value = json.loads(data.read_text())
    assert value["levels"][1]["issued"] == list(STUDY.levels[1].issued)
    assert value["sentence"] == Guarantee.of().sentence() and len(value["curve"]) == 101


def test_without_true_labels_no_accuracy_is_shown(tmp_path: Path) -> None:
    blind = make_study(replace(TUNING, target=np.full(300, -1)), Guarantee.of(), errors=ERRORS[1:2])
    html, data = write_study(blind, tmp_path)
    assert "gross" not in html.read_text().replace("Gross", "")
    assert "Net certified accuracy" not in html.read_text()
    value = json.loads(data.read_text())
    assert value["levels"][0]["accuracy"] is None and value["levels"][0]["net"] is None


@pytest.mark.parametrize("split", ["calibration", "verification", "test"])
def test_only_the_tuning_split_is_studied(split: str) -> None:
    with pytest.raises(CalibrationError, match="expected 'tuning'"):
        make_study(replace(TUNING, split=split), Guarantee.of())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"radii": (-0.1,)}, "got radius -0.1"),
        ({"radius": 0.0}, "radius: got 0, expected a positive radius"),
        ({"radius": float("nan")}, "radius: got nan"),
        ({"frame_rate": 0.0}, "got frame rate 0.0"),
    ],
)
def test_bad_requests(keywords: "dict[str, object]", message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        make_study(TUNING, Guarantee.of(), **keywords)  # type: ignore[arg-type]


def test_guard_study_weighs_noise_against_rho() -> None:
    """More noise makes the surrogate worse and the level milder; a large rho wants more noise than a small one."""
    tables = {
        0.05: draw_scores(1, 200, 5000, noise=0.1, split="tuning"),
        0.2: draw_scores(1, 200, 5000, noise=0.5, split="tuning"),
    }
    made = study_guard(tables, Guarantee.of("pac", "0.1"), (0.01, 0.2, 2.0), num_calibration=3000)
    assert dict(made.chosen) == {0.01: 0.05, 0.2: 0.2, 2.0: None}
    rows = {(row.rho, row.noise): row for row in made.rows}
    assert rows[0.2, 0.05].level < 1e-6 and not rows[0.2, 0.05].enough and rows[0.2, 0.05].map == ""
    assert rows[0.01, 0.05].issued[0] > rows[0.2, 0.2].issued[0] > 0
    assert rows[2.0, 0.05].level == 0.0
    json.dumps(made.to_json(), allow_nan=False)


def test_guard_study_refuses() -> None:
    with pytest.raises(CalibrationError, match="no tables or no rho"):
        study_guard({}, Guarantee.of(), (0.1,))
    with pytest.raises(CalibrationError, match=r"noise 0\.1 are of split 'test'"):
        study_guard({0.1: replace(TUNING, split="test")}, Guarantee.of(), (0.1,))
    with pytest.raises(CalibrationError, match="expected 'pac' or 'marginal'"):
        study_guard({0.1: TUNING}, Guarantee.of("per-class"), (0.1,))


def test_the_interval_holds_what_a_calibration_gives_in_nine_of_ten_cases() -> None:
    """100 tuning frames, as in the case that was reported (60 % foretold, 33 % came): simulated from the same world.

    10 worlds at probability .9 or more: fewer than 7 hits would have a chance of 1.3 %.
    """
    guarantee, hits, wide = Guarantee.of(error="0.1"), 0, []
    for seed in range(10):
        tuning = draw_scores(1000 + seed, 100, 500, noise=0.3, split="tuning")
        row = make_study(
            tuning, guarantee, errors=[guarantee.error], radii=(0.25,), num_calibration=150
        ).levels[0]
        low, high = row.interval[0]
        assert 0 <= low <= row.issued[0] <= high <= 1
        calibration = draw_scores(2000 + seed, 150, 500, noise=0.3, split="calibration")
        curve = fit_map(row.map, tuning, guarantee)
        record = calibrate(calibration, guarantee, curve)
        fresh = draw_scores(3000 + seed, 2000, 500, noise=0.3, split="test")
        came = float(np.mean(record.head.radius(fresh.probit, fresh.label) >= 0.25))
        hits += low <= came <= high
        wide.append(high - low)
    assert hits >= 7 and np.mean(wide) < 0.6


def test_fewer_tuning_frames_foretell_less() -> None:
    few = make_study(
        TUNING.take(np.arange(300) < 60), Guarantee.of(), errors=ERRORS[1:2], num_calibration=400
    )
    assert np.subtract(*few.levels[0].interval[1][::-1]) > np.subtract(*STUDY.levels[1].interval[1][::-1])
