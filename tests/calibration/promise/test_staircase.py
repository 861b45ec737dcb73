"""Staircases: the thresholds are the best within the level, the rule issues its radii only, records keep them."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rrise.calibration import CalibrationError, CertificateHead, Guarantee, RadiusMap, Scores, calibrate
from rrise.calibration.promise.fit import check_rank
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.promise.maps import staircase_map, step_map
from rrise.calibration.promise.objective import Objective
from rrise.calibration.promise.offsets import LEAST, excesses, reference_for
from rrise.calibration.promise.plan import Plan, choose_plan
from rrise.calibration.promise.record import Calibration
from rrise.calibration.promise.staircase import _Tally, allowed_share, fit_staircase
from rrise.calibration.tables.evaluation import audit
from tests.calibration.helpers import draw_scores

RADII = (0.15, 0.3, 0.45)
TUNING = draw_scores(1, 800, 5000, noise=0.4, split="tuning", start=10**6, difficulty=True)
CALIBRATION = draw_scores(2, 1000, 5000, noise=0.4, difficulty=True)
TEST = draw_scores(3, 5000, 5000, noise=0.4, split="test", start=10**7, difficulty=True)
PLAIN = replace(TUNING, difficulty=None)
STAIRS = staircase_map((0.1, 0.2, 0.3), (0.12, 0.2, 0.41))


def _issued(head: CertificateHead, scores: Scores = TEST) -> np.ndarray:
    return head.radius(scores.probit, scores.label, scores.difficulty)


def test_the_largest_radius_whose_threshold_is_reached_is_issued() -> None:
    below = np.nextafter(np.float32(0.2), np.float32(0))
    reach = np.array([0.11, 0.12, below, 0.2, 0.41, 9, np.nan, np.inf, -np.inf], np.float32)
    found = STAIRS.issue(reach)
    wanted = np.array(STAIRS.radii, np.float32)
    assert found.dtype == np.float32
    assert found.tolist() == [0.0, wanted[0], wanted[0], wanted[1], wanted[2], wanted[2], 0.0, wanted[2], 0.0]
    level = staircase_map((0.1, 0.2), (0.3, 0.3))
    assert level.issue(np.array([0.3], np.float32)) == np.float32(level.radii[1])


@st.composite
def staircases(draw: st.DrawFn) -> RadiusMap:
    radii = sorted(draw(st.sets(st.floats(0.0078125, 2, width=32), min_size=1, max_size=5)))
    thresholds = draw(st.lists(st.floats(-1, 2, width=32), min_size=len(radii), max_size=len(radii)))
    return staircase_map(radii, sorted(thresholds))


probits = arrays(np.float32, 12, elements=st.floats(-10.75, 10.75, width=32))
difficulties = arrays(np.float32, 12, elements=st.floats(0.0078125, 8, width=32))


@given(staircases(), probits, difficulties, st.floats(-2, 2, width=32), st.floats(0, 1, width=32))
def test_a_larger_offset_never_issues_more(
    stairs: RadiusMap, probit: np.ndarray, u: np.ndarray, offset: float, more: float
) -> None:
    head, label = CertificateHead(0.25, stairs, (offset,), difficulty=True), np.zeros(12, np.int64)
    before = head.radius(probit, label, u)
    assert set(before.tolist()) <= {0.0, *stairs.radii}
    assert (head.with_offset((offset + more,)).radius(probit, label, u) <= before).all()


@given(staircases(), st.integers(0, 2**32 - 1), st.booleans())
def test_the_score_is_exactly_the_smallest_offset_in_deployed_arithmetic(
    stairs: RadiusMap, seed: int, difficulty: bool
) -> None:
    scores, guarantee = draw_scores(seed, 40, 300, difficulty=True), Guarantee.of()
    head = CertificateHead(scores.sigma, stairs, (0.0,), difficulty=difficulty)
    found, reference = excesses(scores, head, guarantee), reference_for(scores, guarantee)
    u = scores.difficulty if difficulty and scores.difficulty is not None else np.ones(40, np.float32)

    def radius(offset: np.ndarray) -> np.ndarray:
        """What the head issues with an offset of its own for each frame, taken from its own subtraction."""
        raw = head.raw_radius(scores.probit)
        assert (head.reach(scores.probit, scores.label, scores.difficulty) == raw).all()
        return stairs.issue(raw - offset.astype(np.float32) * u)

    assert found.dtype == np.float32
    assert (radius(found) <= reference).all()
    bound = found > LEAST
    less = np.nextafter(found, np.float32(-np.inf))
    assert (radius(less) > reference)[bound].all()
    assert (reference[~bound] >= np.float32(stairs.radii[-1])).all()
    for row in np.flatnonzero(bound)[:3]:
        one = scores.take(np.array([row]))
        for offset, holds in ((found[row], True), (less[row], False)):
            issued = head.with_offset((float(offset),)).radius(one.probit, one.label, one.difficulty)
            assert (issued[0] <= reference[row]) == holds


def test_a_step_is_a_staircase_of_one() -> None:
    step = step_map(0.3)
    assert step == RadiusMap(step.name, (), (), step.radii, step.radii)
    assert step.is_step and not staircase_map((0.3,), (0.31,)).is_step


@pytest.mark.parametrize(
    ("radii", "thresholds"),
    [
        ((0.1, 0.2), (0.1,)),
        ((0.2, 0.1), (0.1, 0.2)),
        ((0.1, 0.1), (0.1, 0.2)),
        ((0.1, 0.1 + 1e-12), (0.1, 0.2)),
        ((0.1, 0.2), (0.2, 0.1)),
        ((0.1, 0.2), (0.1, float("inf"))),
        ((0.1, 0.2), (float("nan"), 0.1)),
        ((0.0, 0.2), (0.1, 0.2)),
        ((), (0.1,)),
    ],
)
def test_what_is_no_staircase_is_refused(radii: "tuple[float, ...]", thresholds: "tuple[float, ...]") -> None:
    with pytest.raises(CalibrationError, match=r"staircase|step: got radius"):
        staircase_map(radii, thresholds)


def test_the_thresholds_are_the_best_within_the_budget() -> None:
    """Against every combination of thresholds, on the same tally."""
    reference = reference_for(PLAIN, Guarantee.of())
    reach = PLAIN.sigma * PLAIN.probit.astype(np.float64)
    for weights in ((1.0, 1.0), (1.0, 3.0), (4.0, 1.0)):
        objective = Objective((0.15, 0.4), weights)
        tally = _Tally.of(reach, reference, objective, 0.02)
        coarse = _Tally(tally.places[::4], *(t[::4] for t in (tally.gain, tally.cost, tally.reached)))
        if len(coarse.gain) == len(coarse.places):  # the last row, never reached, is kept
            coarse = _Tally(  # type: ignore[call-arg]
                coarse.places,
                *(np.vstack([t, 0 * t[:1]]) for t in (coarse.gain, coarse.cost)),
                np.append(coarse.reached, 0),
            )
        for budget in (4.0, 20.0, 60.0):
            found = coarse.best(budget, objective)
            place = [int(np.flatnonzero(coarse.places == t)[0]) for t in found.thresholds]
            assert len(place) == 2 and sum(coarse.cost[p, k] for k, p in enumerate(place)) <= budget
            best = max(
                coarse.gain[low, 0] + coarse.gain[high, 1]
                for low, high in itertools.combinations_with_replacement(range(len(coarse.gain)), 2)
                if coarse.cost[low, 0] + coarse.cost[high, 1] <= budget
            )
            assert found.worth * len(PLAIN) >= 0.995 * best


def test_the_level_is_spent_on_tuning_frames_and_kept_on_others() -> None:
    guarantee = Guarantee.of()
    stairs = fit_staircase(PLAIN, guarantee, Objective.of(RADII), units=1000)
    head = CertificateHead(PLAIN.sigma, stairs, (0.0,))
    share = float(np.mean(_issued(head, PLAIN) > reference_for(PLAIN, guarantee)))
    assert share == pytest.approx(allowed_share(guarantee, 1000), abs=0.006)
    record = calibrate(CALIBRATION, guarantee, stairs, difficulty=False)
    assert abs(record.head.offset[0]) < 0.03  # the thresholds stand where the offset puts them
    assert check_rank(CALIBRATION, _issued(record.head, CALIBRATION), record)
    verdict = audit(TEST, _issued(record.head))
    assert verdict.wrong / len(TEST) <= 0.05 and set(_issued(record.head).tolist()) == {0.0, *stairs.radii}


def test_weights_move_certificates_to_the_radius_that_is_worth_more() -> None:
    guarantee, shares = Guarantee.of(), []
    for weights in ((1.0, 1.0, 1.0), (8.0, 1.0, 1.0), (1.0, 1.0, 8.0)):
        stairs = fit_staircase(PLAIN, guarantee, Objective(RADII, weights))
        radius = _issued(calibrate(CALIBRATION, guarantee, stairs, difficulty=False).head)
        shares.append([float(np.mean(radius >= r)) for r in RADII])
    assert shares[1][0] > shares[0][0] + 0.02 and shares[2][2] > shares[0][2] + 0.02
    assert shares[2][0] < shares[0][0] - 0.02


def test_a_staircase_is_chosen_where_it_is_best_and_beats_the_single_maps() -> None:
    guarantee = Guarantee.of()
    plan = choose_plan(PLAIN, guarantee, radius=RADII, num_calibration=1000)
    assert plan.map.name == "staircase" and len(plan.map.radii) == 3

    def worth(map: RadiusMap) -> float:
        radius = _issued(calibrate(CALIBRATION, guarantee, map, difficulty=False).head)
        return plan.objective.worth(radius)

    single = choose_plan(PLAIN, guarantee, num_calibration=1000)
    assert worth(plan.map) > worth(single.map) + 0.05
    # Half of the frames certify all of .05 or nothing much: then a map for all radii can be as good, and is allowed.
    assert {row.name for row in plan.candidates} >= {"identity", "clopper-pearson", "staircase"}
    # Three separate steps spend the level three times: no staircase reaches all of them.
    steps = [
        float(np.mean(_issued(calibrate(CALIBRATION, guarantee, step_map(r), difficulty=False).head) >= r))
        for r in RADII
    ]
    assert worth(plan.map) < sum(steps)


def test_a_difficulty_that_knows_where_the_surrogate_errs_helps_a_staircase() -> None:
    guarantee, worth = Guarantee.of(), []
    for scaled in (False, True):
        stairs = fit_staircase(TUNING, guarantee, Objective.of(RADII), difficulty=scaled, units=1000)
        record = calibrate(CALIBRATION, guarantee, stairs, difficulty=scaled)
        worth.append(Objective.of(RADII).worth(_issued(record.head)))
    assert worth[1] > worth[0] + 0.02


@pytest.mark.parametrize(
    "guarantee",
    [
        Guarantee.of("marginal"),
        Guarantee.of("per-class", "0.1"),
        Guarantee.of("whole-clip", "0.1"),
        Guarantee.of("pac", "0.1", guard=Guard(0.05, 0.12)),
    ],
)
def test_every_kind_that_ranks_scores_takes_a_staircase(guarantee: Guarantee) -> None:
    size = 4 if guarantee.kind == "whole-clip" else 1
    tuning, calibration = (replace(t, clip=t.clip // size) for t in (TUNING, CALIBRATION))
    plan = choose_plan(tuning, guarantee, radius=RADII, num_calibration=1000 // size, names=("staircase",))
    record = calibrate(calibration, plan.guarantee, plan.map, difficulty=plan.difficulty)
    radius = _issued(record.head, calibration)
    assert record and check_rank(calibration, radius, record)
    assert (radius > 0).any() and set(radius.tolist()) <= {0.0, *plan.map.radii}


def test_selective_stairs_are_tested_in_turn_and_keep_the_promise_among_the_issued() -> None:
    guarantee = Guarantee.of("selective", "0.1")
    plan = choose_plan(PLAIN, guarantee, radius=RADII, num_calibration=1000, names=("staircase",))
    assert plan.threshold is None and len(plan.offsets) > 10
    record = calibrate(CALIBRATION, guarantee, plan.map, difficulty=plan.difficulty, offsets=plan.offsets)
    radius = _issued(record.head)
    issued = radius > 0
    assert record and issued.mean() > 0.3
    # Truly wrong among issued, judged by 5,000 draws; false alarm of the audit .001 each.
    assert audit(TEST, radius).wrong / issued.sum() <= 0.1
    # The stairs themselves stand where the issued frames have the level, not where all frames have.
    plain = fit_staircase(PLAIN, Guarantee.of("pac", "0.1"), Objective.of(RADII))
    assert plan.map.thresholds[0] > plain.thresholds[0]
    with pytest.raises(CalibrationError, match=r"only radius 0\.15 or 0\.3 or 0\.45 is; give offsets"):
        calibrate(CALIBRATION, guarantee, plan.map, difficulty=False, threshold=0.2)


def test_selective_stairs_are_foretold() -> None:
    guarantee = Guarantee.of("selective", "0.1")
    plan = choose_plan(PLAIN, guarantee, radius=RADII, num_calibration=1000, names=("staircase",))
    (row,) = plan.candidates
    given_ = _issued(calibrate(CALIBRATION, guarantee, plan.map, difficulty=False, offsets=plan.offsets).head)
    assert row.objective == pytest.approx(plan.objective.worth(given_), abs=0.15)


def test_a_radius_that_no_threshold_affords_is_left_out() -> None:
    """Nobody has a reference of 2; the other radii are kept. With nothing affordable one step remains, out of reach."""
    guarantee = Guarantee.of()
    stairs = fit_staircase(PLAIN, guarantee, Objective.of((0.15, 2.0)))
    assert len(stairs.radii) == 1 and stairs.radii[0] == pytest.approx(0.15)
    hopeless = fit_staircase(PLAIN, guarantee, Objective.of((2.0, 3.0)))
    assert hopeless.radii == (2.0,) and hopeless.thresholds[0] >= PLAIN.sigma * PLAIN.probit.max() * 0.999


def test_few_tuning_frames_fit_no_staircase() -> None:
    few = PLAIN.take(np.arange(30))
    plan = choose_plan(few, Guarantee.of(), radius=RADII)
    assert {row.name for row in plan.candidates} == {"identity", "clopper-pearson"}
    with pytest.raises(
        CalibrationError, match=r"none of the maps staircase suits radii 0\.15, 0\.3, 0\.45 with 30"
    ):
        choose_plan(few, Guarantee.of(), radius=RADII, names=("staircase",))
    with pytest.raises(CalibrationError, match="expected the radii that it issues"):
        fit_staircase(PLAIN, Guarantee.of(), Objective.of(None))


@pytest.mark.parametrize(
    ("radius", "weights", "message"),
    [
        ((0.3, 0.2), (), "radii that increase"),
        ((0.0, 0.2), (), "expected a positive radius"),
        ((0.1, 0.2), (1.0,), "a positive number for each radius"),
        ((0.1, 0.2), (1.0, 0.0), "a positive number for each radius"),
        (None, (1.0,), "a positive number for each radius"),
    ],
)
def test_objectives_that_make_no_sense(radius: object, weights: "tuple[float, ...]", message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Objective.of(radius, weights)  # type: ignore[arg-type]


def test_records_and_plans_have_a_format_of_their_own(tmp_path: Path) -> None:
    plan = choose_plan(PLAIN, Guarantee.of(), radius=RADII, weights=(1, 2, 3), num_calibration=1000)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    value = json.loads((tmp_path / "plan.json").read_text())
    assert value["format"] == "rrise-plan/3" and value["weights"] == [1, 2, 3]
    (tmp_path / "plan.json").write_text(json.dumps({**value, "format": "rrise-plan/1"}))
    with pytest.raises(CalibrationError, match="expected 'rrise-plan/3'"):
        Plan.load(tmp_path / "plan.json")

    record = calibrate(CALIBRATION, Guarantee.of(), plan.map, difficulty=False)
    stored = record.to_json()
    assert stored["format"] == "rrise-calibration/3" and Calibration.from_json(stored) == record
    assert (
        "one of the radii 0.15, 0.3, 0.45" in record.message() and "0.15 from" in record.head.map.describe()
    )
    for old in ("rrise-calibration/1", "rrise-calibration/2"):
        with pytest.raises(CalibrationError, match="expected 'rrise-calibration/3'"):
            Calibration.from_json({**stored, "format": old})
    broken = json.loads(json.dumps(stored))
    broken["head"]["map"]["thresholds"].reverse()
    with pytest.raises(CalibrationError, match="thresholds must not decrease"):
        Calibration.from_json(broken)


def test_a_step_is_stored_as_it_was_before_there_were_staircases() -> None:
    """The digest of an older record, which a graph carries in its metadata, must not change."""
    old = {"name": "step 0.25", "x": [], "y": [], "step": 0.25}
    assert RadiusMap.from_json(old) == step_map(0.25) and step_map(0.25).to_json() == old
    selective = choose_plan(
        PLAIN, Guarantee.of("selective", "0.1"), radius=0.3, num_calibration=1000, names=("step",)
    )
    plain = choose_plan(PLAIN, Guarantee.of(), radius=0.3, num_calibration=1000, names=("step",))
    assert plain.to_json()["format"] == "rrise-plan/2" and "weights" not in plain.to_json()
    assert selective.to_json()["format"] == "rrise-plan/3" and selective.offsets
