"""Calibration of every kind of guarantee, by hand on small tables, and everything it refuses."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rrise.calibration import (
    CalibrationError,
    Guarantee,
    RadiusMap,
    Scores,
    calibrate,
    check_rank,
    clopper_pearson_map,
)
from rrise.calibration.promise.head import WITHHELD
from rrise.calibration.promise.maps import step_map
from rrise.calibration.promise.offsets import LEAST, excesses, label_reference
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.ranks import max_exceedances
from tests.calibration.helpers import SIGMA, draw_scores

MAP = clopper_pearson_map(SIGMA, 500, 0.1)


def _radius(scores: Scores, record: Calibration) -> np.ndarray:
    return record.head.radius(scores.probit, scores.label, scores.difficulty)


@pytest.mark.parametrize("kind", ["pac", "marginal"])
@pytest.mark.parametrize("difficulty", [False, True])
def test_offset_is_the_ranked_excess_and_leaves_the_rest_above(kind: str, difficulty: bool) -> None:
    scores = draw_scores(0, 300, difficulty=difficulty)
    record = calibrate(scores, Guarantee.of(kind), MAP)
    above = np.sort(excesses(scores, record.head, record.guarantee))
    assert record.head.difficulty == difficulty
    assert record.head.offset == (float(above[record.rank - 1]),)
    check = check_rank(scores, _radius(scores, record), record)
    assert check and check.exceeding <= check.allowed == 300 - record.rank


def test_a_slightly_smaller_offset_fails_the_rank_check() -> None:
    # A map without a saturated top, so that scores near the rank differ and radii there are positive.
    scores = draw_scores(0, 300)
    record = calibrate(scores, Guarantee.of())
    check = check_rank(scores, _radius(scores, record), record)
    assert check.exceeding == check.allowed
    smaller = record.head.with_offset(
        (float(np.nextafter(np.float32(record.head.offset[0]), np.float32(-1))),)
    )
    assert not check_rank(scores, smaller.radius(scores.probit, scores.label), record)


def test_difficulty_can_be_left_out() -> None:
    scores = draw_scores(0, 300, difficulty=True)
    assert calibrate(scores, Guarantee.of(), difficulty=False) == calibrate(
        replace(scores, difficulty=None), Guarantee.of()
    )
    with pytest.raises(CalibrationError, match="no difficulty head"):
        calibrate(draw_scores(0, 300), Guarantee.of(), difficulty=True)


def test_frames_with_different_numbers_of_samples() -> None:
    many, few = draw_scores(0, 100, 5000), draw_scores(1, 100, 200, start=100)
    both = Scores(
        **{  # type: ignore[arg-type]
            name: np.concatenate([getattr(many, name), getattr(few, name)])
            for name in ("digest", "clip", "target", "label", "probit", "counts", "num_samples")
        },
        **{
            name: getattr(many, name)
            for name in ("split", "sigma", "class_names", "base_digest", "execution")
        },
    )
    record = calibrate(both, Guarantee.of())
    assert record.num_samples == (200, 5000)
    assert check_rank(both, _radius(both, record), record)
    expected = np.concatenate([label_reference(many, 0.1), label_reference(few, 0.1)])
    assert (label_reference(both, 0.1) == expected).all()


@pytest.mark.parametrize("kind", ["pac", "marginal", "whole-clip"])
def test_too_few_issue_nothing_and_say_how_many_are_needed(kind: str) -> None:
    guarantee = Guarantee.of(kind)
    short = guarantee.frames_needed() - 1
    record = calibrate(draw_scores(0, short), guarantee)
    assert not record and record.rank is None and math.isinf(record.head.offset[0])
    assert str(short) in record.message() and str(guarantee.frames_needed()) in record.message()
    assert (_radius(draw_scores(1), record) == 0).all()
    assert calibrate(draw_scores(0, short + 1), guarantee)


def test_per_class_offsets_and_the_names_of_poor_classes() -> None:
    scores = draw_scores(0, 400)
    scores = scores.take((scores.label != 2) | (np.cumsum(scores.label == 2) <= 40))
    record = calibrate(scores, Guarantee.of("per-class"), MAP)
    frames = tuple(int((scores.label == label).sum()) for label in range(3))
    assert record.class_frames == frames and frames[2] == 40
    assert (
        record.head.offset[2] == WITHHELD
        and "class 2 (40)" in record.message()
        and "66 of each" in record.message()
    )
    excess = excesses(scores, record.head, record.guarantee)
    for label in (0, 1):
        rank = record.guarantee.rank(frames[label])
        assert record.head.offset[label] == np.sort(excess[scores.label == label])[rank - 1]
    radius = _radius(scores, record)
    assert (radius[scores.label == 2] == 0).all() and (radius[scores.label == 0] > 0).any()
    check = check_rank(scores, radius, record)
    assert check and len(check.groups) == 3 and check.groups[2] == (0, 0)


def test_per_class_check_fails_when_one_class_fails() -> None:
    scores = draw_scores(0, 600)
    record = calibrate(scores, Guarantee.of("per-class"))
    shifted = record.head.with_offset([record.head.offset[0] - 0.02, 1.0, 1.0])
    check = check_rank(scores, shifted.radius(scores.probit, scores.label), record)
    assert check.exceeding <= check.allowed and not check


def test_per_class_without_any_class_issues_nothing() -> None:
    record = calibrate(draw_scores(0, 90), Guarantee.of("per-class"))
    assert not record and "class 0" in record.message() and "class 2" in record.message()


def test_whole_clip_ranks_the_maxima() -> None:
    scores = replace(draw_scores(0, 600), clip=np.arange(600) // 6)
    record = calibrate(scores, Guarantee.of("whole-clip"), MAP)
    assert record.num_frames == 100
    largest = excesses(scores, record.head, record.guarantee).reshape(100, 6).max(axis=1)
    assert record.head.offset[0] == np.sort(largest)[record.rank - 1]
    check = check_rank(scores, _radius(scores, record), record)
    assert check and check.allowed == 100 - record.rank


def test_frames_of_one_clip_count_once() -> None:
    scores = replace(draw_scores(0, 600), clip=np.arange(600) // 6)
    record = calibrate(scores, Guarantee.of(), MAP, seed=5)
    assert (record.num_frames, record.seed) == (100, 5)
    assert check_rank(scores, _radius(scores, record), record)
    poor = calibrate(replace(scores, clip=np.arange(600) // 10), Guarantee.of(), MAP)
    assert not poor and "60 calibration frames are too few" in poor.message()


@pytest.mark.parametrize("kind", ["pac", "marginal", "per-class", "whole-clip"])
def test_where_no_finite_offset_is_enough_nothing_is_issued(kind: str) -> None:
    scores = draw_scores(0, 400, difficulty=True)
    record = calibrate(replace(scores, difficulty=np.full(400, 1e-40, np.float32)), Guarantee.of(kind))
    assert not record and "no finite offset" in record.message()
    assert (_radius(scores, record) == 0).all()
    assert Calibration.from_json(record.to_json()) == record


def test_selective_threshold_ranks_among_the_issued() -> None:
    scores = draw_scores(0, 800)
    record = calibrate(scores, Guarantee.of("selective"), MAP, threshold=0.3)
    issued = record.head.raw_radius(scores.probit) > np.float32(0.3)
    assert record.num_frames == issued.sum() < 800
    assert (
        record.head.offset[0]
        == np.sort(excesses(scores, record.head, record.guarantee)[issued])[record.rank - 1]
    )
    assert record and ((_radius(scores, record) > 0) == issued).all()
    assert check_rank(scores, _radius(scores, record), record)


def test_selective_issues_nothing_when_the_offset_exceeds_the_threshold() -> None:
    record = calibrate(draw_scores(0, 800), Guarantee.of("selective"), MAP, threshold=0.01)
    assert not record and "exceeds the threshold" in record.message()


def test_selective_with_too_few_issued_frames() -> None:
    record = calibrate(draw_scores(0, 800), Guarantee.of("selective"), MAP, threshold=0.7)
    assert not record and "that receive a certificate are too few" in record.message()


def test_fixed_sequence_stops_at_the_first_failure() -> None:
    scores = draw_scores(0, 800, difficulty=True)
    guarantee = Guarantee.of("selective", "0.1")
    grid = np.linspace(-0.1, 0.4, 101)
    record = calibrate(scores, guarantee, MAP, offsets=grid.tolist())
    reference = label_reference(scores, 0.1)

    def passes(offset: float) -> bool:
        radius = record.head.with_offset((offset,)).radius(scores.probit, scores.label, scores.difficulty)
        allowed = max_exceedances(int((radius > 0).sum()), guarantee.alpha, guarantee.delta)
        return allowed is not None and int((radius > reference).sum()) <= allowed

    expected = math.inf
    for offset in grid[::-1]:
        if not passes(offset):
            break
        expected = offset
    assert record.head.offset[0] == np.float32(expected)
    assert check_rank(scores, _radius(scores, record), record)


def test_fixed_sequence_that_fails_at_once_issues_nothing() -> None:
    record = calibrate(draw_scores(0, 800), Guarantee.of("selective", "0.01"), MAP, offsets=[0.0, -0.1])
    assert not record and "first of the offsets" in record.message()


REFUSED = [
    (lambda s: replace(s, split="test"), {}, "got scores of split 'test', expected 'calibration'"),
    (lambda s: s.take(np.arange(0)), {}, "got no frames"),
    (lambda s: s.take(np.append(np.arange(200), 3)), {}, "1 frames occur more than once, first 0000"),
    (lambda s: s, {"training_digests": [b"%064x" % 7, b"x"]}, "1 calibration frames were used in training"),
    (lambda s: s, {"training_digests": [f"{7:064x}"]}, "1 calibration frames were used in training"),
    (lambda s: s, {"training_digests": np.array([b"%064x" % 7], "S64")}, "1 calibration frames were used"),
    (lambda s: s, {"threshold": 0.1}, "expected kind 'selective'"),
    (lambda s: s, {"offsets": [0.1]}, "expected kind 'selective'"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_refused_input(case: int) -> None:
    change, keywords, message = REFUSED[case]
    with pytest.raises(CalibrationError, match=message):
        calibrate(change(draw_scores(0)), Guarantee.of(), **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("keywords", [{}, {"threshold": 0.1, "offsets": [0.1]}])
def test_selective_needs_a_threshold_or_offsets(keywords: "dict[str, Any]") -> None:
    with pytest.raises(CalibrationError, match="needs a threshold or a list of offsets, not both"):
        calibrate(draw_scores(0), Guarantee.of("selective"), **keywords)


def test_a_threshold_does_not_go_with_a_difficulty() -> None:
    with pytest.raises(CalibrationError, match="does not say who is issued"):
        calibrate(draw_scores(0, difficulty=True), Guarantee.of("selective"), threshold=0.1)


def test_rank_check_wants_the_same_frames() -> None:
    record = calibrate(draw_scores(0), Guarantee.of())
    with pytest.raises(CalibrationError, match="other frames than the record"):
        check_rank(draw_scores(0, start=1), np.zeros(200, np.float32), record)


def test_rank_check_takes_nan_for_too_large_and_wants_every_radius() -> None:
    scores = draw_scores(0)
    record = calibrate(scores, Guarantee.of())
    assert check_rank(scores, np.full(200, np.nan, np.float32), record).exceeding == 200
    with pytest.raises(CalibrationError, match=r"got radii \(1,\), expected \(200,\)"):
        check_rank(scores, np.zeros(1, np.float32), record)


@pytest.mark.parametrize("change", ["artefact", "base"])
def test_rank_check_wants_the_same_artefact(change: str) -> None:
    scores = draw_scores(0)
    record = calibrate(scores, Guarantee.of())
    other = replace(scores, base_digest="c" * 64)
    if change == "artefact":
        other = replace(scores, execution=replace(scores.execution, artefact="c" * 64))
    with pytest.raises(CalibrationError, match=r"cccccccccccc.*expected"):
        check_rank(other, _radius(scores, record), record)


def test_a_map_with_few_knots_is_carried_into_the_record() -> None:
    curve = RadiusMap("line", (0.0, 1.0), (0.0, 0.5))
    assert calibrate(draw_scores(0), Guarantee.of(), curve).head.map == curve


@pytest.mark.parametrize("kind", ["marginal", "pac", "per-class", "whole-clip"])
def test_a_step_is_calibrated_under_every_kind_and_leaves_the_rest_above(kind: str) -> None:
    scores = draw_scores(3, 600, difficulty=True)
    if kind == "whole-clip":
        scores = replace(scores, clip=np.arange(600) // 2)
    record = calibrate(scores, Guarantee.of(kind, "0.1"), step_map(0.3))
    radius = _radius(scores, record)
    check = check_rank(scores, radius, record)
    assert check and check.exceeding == check.allowed
    assert set(radius.tolist()) == {0.0, *record.head.map.radii}
    assert "every certificate has radius 0.3" in record.message()
    assert Calibration.from_json(record.to_json()) == record


def test_where_everything_may_be_issued_it_is() -> None:
    """More than 1 - alpha of the references reach the step: the offset is the least there is, and finite."""
    scores = draw_scores(3, 600)
    sure = replace(scores, counts=np.eye(3, dtype=np.uint32)[scores.label] * 500)
    record = calibrate(sure, Guarantee.of(), step_map(0.3))
    assert record.head.offset == (float(LEAST),) and (_radius(sure, record) > 0).all()


def test_a_threshold_and_a_step_contradict_each_other() -> None:
    scores, selective = draw_scores(3, 600), Guarantee.of("selective", "0.2")
    with pytest.raises(CalibrationError, match=r"only radius 0\.3 is"):
        calibrate(scores, selective, step_map(0.3), threshold=0.2)
    record = calibrate(scores, selective, step_map(0.3), offsets=(0.3, 0.2, 0.1, 0.05))
    assert record and (_radius(scores, record) > 0).any()
