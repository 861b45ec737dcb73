"""Plans: chosen on the tuning split only, worth their while on other frames, and sound whatever they choose."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import CalibrationError, Guarantee, Scores, calibrate
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.promise.objective import MEAN_RADIUS
from rrise.calibration.promise.offsets import label_reference
from rrise.calibration.promise.plan import BETAS, Plan, choose_plan
from tests.calibration.helpers import SIGMA, draw_scores


def _split(split: str, frames: int, seed: int, **keywords: object) -> Scores:
    return draw_scores(seed, frames, 5000, split=split, start=seed * 10**6, **keywords)  # type: ignore[arg-type]


TUNING = _split("tuning", 400, 1, noise=0.4, difficulty=True)
CALIBRATION = _split("calibration", 1000, 2, noise=0.4, difficulty=True)
TEST = _split("test", 5000, 3, noise=0.4, difficulty=True)


def _worth(plan: Plan, radius: float) -> float:
    record = calibrate(
        CALIBRATION, plan.guarantee, plan.map, difficulty=plan.difficulty, threshold=plan.threshold
    )
    return float(np.mean(record.head.radius(TEST.probit, TEST.label, TEST.difficulty) >= radius))


def test_a_plan_for_a_radius_beats_the_plain_offset_there() -> None:
    plain = calibrate(CALIBRATION, Guarantee.of(), difficulty=False)
    for radius in (0.15, 0.3, 0.45):
        before = float(np.mean(plain.head.radius(TEST.probit, TEST.label) >= radius))
        plan = choose_plan(TUNING, Guarantee.of(), radius=radius, num_calibration=1000)
        assert plan.map.is_step
        assert plan.map.radii[0] in (np.float32(radius), np.nextafter(np.float32(radius), 1))
        # The best that any rule on the probit could do with alpha errors, knowing the test frames.
        order = np.argsort(-TEST.probit)
        errors = np.cumsum(label_reference(TEST, 0.1)[order] < radius)
        best = float((errors <= 0.045 * len(TEST)).sum()) / len(TEST)
        assert max(before + 0.02, best - 0.05) < _worth(plan, radius) <= best + 0.03


def test_a_real_difficulty_is_chosen_and_helps() -> None:
    plan = choose_plan(TUNING, Guarantee.of(), num_calibration=1000)
    assert plan.difficulty and plan.objective == MEAN_RADIUS
    without = choose_plan(replace(TUNING, difficulty=None), Guarantee.of(), num_calibration=1000)
    assert not without.difficulty
    assert _worth(plan, 0.3) > _worth(without, 0.3)


def test_beta_is_chosen_among_those_given_and_reported() -> None:
    plan = choose_plan(TUNING, Guarantee.of(), radius=0.3, num_calibration=1000, betas=BETAS[1:3])
    assert plan.guarantee.beta in BETAS[1:3] and plan.guarantee.error == Fraction(1, 20)
    assert {row.beta for row in plan.candidates} == {
        f"{beta.numerator}/{beta.denominator}" for beta in BETAS[1:3]
    }
    best = max(plan.candidates, key=lambda row: row.objective)
    assert Fraction(best.beta) == plan.guarantee.beta and best.difficulty == plan.difficulty
    assert all(len(row.issued) == len(plan.radii) == 3 for row in plan.candidates)


def test_the_same_tuning_split_gives_the_same_plan() -> None:
    assert choose_plan(TUNING, Guarantee.of(), radius=0.3) == choose_plan(TUNING, Guarantee.of(), radius=0.3)


def test_few_tuning_frames_fall_back_to_maps_that_need_none() -> None:
    plan = choose_plan(TUNING.take(np.arange(30)), Guarantee.of(), radius=0.3)
    assert {row.name for row in plan.candidates} == {"identity", "clopper-pearson", "step"}


def test_selective_plans_have_a_threshold_that_the_offset_stays_below() -> None:
    tuning = replace(TUNING, difficulty=None)
    plan = choose_plan(tuning, Guarantee.of("selective", "0.1"), num_calibration=1000)
    record = calibrate(
        replace(CALIBRATION, difficulty=None), plan.guarantee, plan.map, threshold=plan.threshold
    )
    assert record and record.head.offset[0] <= plan.threshold


def test_clips_are_kept_together_and_maxima_used() -> None:
    tuning = replace(TUNING, clip=np.arange(400) // 4)
    plan = choose_plan(tuning, Guarantee.of("whole-clip", "0.1"), num_calibration=200)
    single = choose_plan(TUNING, Guarantee.of("pac", "0.1"), num_calibration=200)
    assert max(row.objective for row in plan.candidates) < max(row.objective for row in single.candidates)


def test_a_guarded_plan_aims_below_the_lowered_reference() -> None:
    guarantee = Guarantee.of("pac", "0.1", guard=Guard(0.05, 0.12))
    plan = choose_plan(TUNING, guarantee, radius=0.2, num_calibration=1000)
    plain = choose_plan(TUNING, Guarantee.of("pac", "0.1"), radius=0.2, num_calibration=1000)
    assert 0 < max(row.objective for row in plan.candidates) < max(row.objective for row in plain.candidates)


def test_round_trip_and_damage(tmp_path: Path) -> None:
    plan = choose_plan(TUNING, Guarantee.of(), radius=0.3, num_calibration=1000)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    value = plan.to_json()
    for field in value:
        (tmp_path / "plan.json").write_text(
            json.dumps({key: item for key, item in value.items() if key != field})
        )
        with pytest.raises(CalibrationError, match=r"plan\.json"):
            Plan.load(tmp_path / "plan.json")


def test_only_the_tuning_split_may_choose() -> None:
    for split in ("calibration", "verification", "test"):
        with pytest.raises(CalibrationError, match="expected 'tuning'"):
            choose_plan(replace(TUNING, split=split), Guarantee.of())


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_must_be_positive(radius: float) -> None:
    with pytest.raises(CalibrationError, match="expected a positive radius"):
        choose_plan(TUNING, Guarantee.of(), radius=radius)


def test_no_frames() -> None:
    with pytest.raises(CalibrationError, match="no tuning frames"):
        choose_plan(TUNING.take(np.arange(0)), Guarantee.of())


@pytest.mark.long
def test_a_chosen_plan_keeps_the_promise() -> None:
    """200 worlds: plan on tuning, calibrate, count truly wrong certificates. Violations within delta, alarm 1e-6."""
    from tests.calibration.worlds import at_most

    violations = 0
    for trial in range(200):
        seed = 100 + 3 * trial
        plan = choose_plan(
            _split("tuning", 150, seed, noise=0.4), Guarantee.of(), radius=0.3, num_calibration=400
        )
        record = calibrate(_split("calibration", 400, seed + 1, noise=0.4), plan.guarantee, plan.map)
        rng = np.random.default_rng(seed + 2)
        true = rng.normal(1.0, 1.0, 40_000)
        probit = (true + 0.4 * rng.normal(size=40_000)).astype(np.float32)
        radius = record.head.radius(probit, np.zeros(40_000, np.int64))
        violations += bool(np.mean((radius > 0) & (radius > SIGMA * true)) > 0.05)
    assert violations / 200 <= at_most(0.05, 200)


@pytest.mark.parametrize("others", [0, 2, 9])
def test_a_map_that_cannot_be_fitted_is_left_out(others: int) -> None:
    """Nearly every frame at the cap of the probit, as a perfect classifier's large logits or a constant's make it."""
    probit = np.full(len(TUNING), 10.7, np.float32)
    probit[:others] = TUNING.probit[:others]
    plan = choose_plan(replace(TUNING, probit=probit, difficulty=None), Guarantee.of(), num_calibration=1000)
    tried = {candidate.name for candidate in plan.candidates}
    assert {"clopper-pearson", "identity"} <= tried and plan.map.name in tried
    assert any("quantile" in name for name in tried) == (others == 9)
