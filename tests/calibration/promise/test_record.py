"""Calibration records: round trips, digests, messages, damage."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import Calibration, CalibrationError, Guarantee, calibrate, clopper_pearson_map
from rrise.calibration.promise.maps import step_map
from tests.calibration.helpers import SIGMA, draw_scores

RECORD = calibrate(draw_scores(0), Guarantee.of(), clopper_pearson_map(SIGMA, 500, 0.1), seed=4, attempt=2)


@pytest.mark.parametrize("kind", ["pac", "marginal", "per-class", "whole-clip"])
@pytest.mark.parametrize("frames", [20, 200, 900])
def test_round_trip(tmp_path: Path, kind: str, frames: int) -> None:
    record = calibrate(draw_scores(0, frames), Guarantee.of(kind))
    record.save(tmp_path / "record.json")
    assert Calibration.load(tmp_path / "record.json") == record
    assert Calibration.load(tmp_path / "record.json").digest == record.digest


def test_binding_ignores_the_artefact_only() -> None:
    other = replace(RECORD, execution=replace(RECORD.execution, artefact="c" * 64))
    assert other.binding() == RECORD.binding() and other.digest != RECORD.digest
    assert replace(RECORD, attempt=3).binding() != RECORD.binding()


def test_message() -> None:
    assert RECORD and "is score" in RECORD.message() and "of 200 frames" in RECORD.message()
    poor = calibrate(draw_scores(0, 20), Guarantee.of())
    assert not poor
    assert poor.message() == (
        "20 calibration frames are too few: error 0.05 (pac) needs at least 66, so no certificate is issued"
    )


def test_every_missing_field_is_an_error(tmp_path: Path) -> None:
    value = RECORD.to_json()
    assert value["issued"] == list(RECORD.issued or ())
    for field in value.keys() - {"issued"}:  # which records made before it was noted do not have
        (tmp_path / "r.json").write_text(
            json.dumps({key: item for key, item in value.items() if key != field})
        )
        with pytest.raises(CalibrationError):
            Calibration.load(tmp_path / "r.json")


def test_a_record_says_what_the_promise_permits_among_issued_certificates(tmp_path: Path) -> None:
    scores = draw_scores(0)
    radius = RECORD.head.radius(scores.probit, scores.label, scores.difficulty)
    assert RECORD.issued == (int((radius > 0).sum()), len(scores))
    found = RECORD.among_issued()
    assert found is not None
    assert found.bound == pytest.approx(float(RECORD.guarantee.error) * len(scores) / int((radius > 0).sum()))
    old = {key: item for key, item in RECORD.to_json().items() if key != "issued"}
    (tmp_path / "old.json").write_text(json.dumps(old))
    before = Calibration.load(tmp_path / "old.json")
    assert before.to_json() == old and before.among_issued() is None
    assert "calibrate again" in before.among_issued_text()


@pytest.mark.parametrize("kind", ["pac", "whole-clip"])
def test_a_long_clip_does_not_make_certificates_look_frequent(kind: str) -> None:
    """Errors may be all in short clips, which are as many clips: among their certificates the share of wrong ones is larger."""
    scores = draw_scores(0, 600, 2000)
    sure = scores.probit > np.sort(scores.probit)[300]
    clips = replace(scores, clip=np.where(sure, 0, scores.clip + 1))
    record = calibrate(clips, Guarantee.of(kind, error="0.2"), clopper_pearson_map(SIGMA, 2000, 0.1))
    radius = record.head.radius(clips.probit, clips.label)
    short = int((radius[~sure] > 0).sum())
    assert record.issued == (short + 1, int((~sure).sum()) + 1)
    found = record.among_issued()
    assert found is not None and found.bound == pytest.approx(0.2 * found.frames / found.issued)
    assert found.bound > 1.2 * 0.2 * len(radius) / int((radius > 0).sum())


@pytest.mark.parametrize(
    "change",
    [
        {"format": "rrise-calibration/2"},
        {"rank": "last"},
        {"issued": [3, 2]},
        {"issued": 5},
        {"rank": math.inf},
        {"attempt": math.inf},
        {"num_samples": 5},
        {"num_samples": []},
        {"execution": {}},
        {"guarantee": {"kind": "pac"}},
        {"head": {"sigma": 0.25}},
        {"head": None},
        {"class_frames": 3},
        {"guarantee": {"kind": "pac", "error": "2", "confidence": "0.95", "beta": "0.1"}},
    ],
)
def test_malformed_fields_are_an_error(tmp_path: Path, change: "dict[str, object]") -> None:
    (tmp_path / "r.json").write_text(json.dumps({**RECORD.to_json(), **change}))
    with pytest.raises(CalibrationError):
        Calibration.load(tmp_path / "r.json")


@pytest.mark.parametrize("offset", ["NaN", "-inf", "x", None])
def test_an_offset_that_is_no_offset_is_refused(tmp_path: Path, offset: object) -> None:
    value = RECORD.to_json()
    value["head"]["offset"] = [offset]
    (tmp_path / "r.json").write_text(json.dumps(value))
    with pytest.raises(CalibrationError):
        Calibration.load(tmp_path / "r.json")
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(CalibrationError, match="got format 'list'"):
        Calibration.load(tmp_path / "r.json")


def test_a_record_with_a_step_has_a_format_of_its_own() -> None:
    """Whoever knows only the first format must not read it as a record that issues every radius."""
    record = calibrate(draw_scores(0), Guarantee.of(), step_map(0.3))
    value = record.to_json()
    assert value["format"] == "rrise-calibration/2" and RECORD.to_json()["format"] == "rrise-calibration/1"
    assert Calibration.from_json(value) == record
    with pytest.raises(CalibrationError, match="expected 'rrise-calibration/2'"):
        Calibration.from_json({**value, "format": "rrise-calibration/1"})
