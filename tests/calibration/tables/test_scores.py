"""The scores table: round trips, selection, and refusal of everything that no execution can have written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrise.calibration import CalibrationError, Scores
from rrise.calibration.storage.files import read_arrays, write_arrays
from tests.calibration.helpers import draw_scores


def _same(one: Scores, two: Scores) -> bool:
    return all(
        np.array_equal(a, b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)
        for a, b in zip(vars(one).values(), vars(two).values())
    )


@pytest.mark.parametrize("difficulty", [False, True])
def test_round_trip(tmp_path: Path, difficulty: bool) -> None:
    scores = draw_scores(0, 20, difficulty=difficulty)
    scores.save(tmp_path / "deep" / "calibration.npz")
    assert _same(Scores.load(tmp_path / "deep" / "calibration.npz"), scores)


def test_round_trip_with_stored_references(tmp_path: Path) -> None:
    scores = replace(draw_scores(0, 20), reference=np.linspace(0, 1, 20, dtype=np.float32), beta=0.1)
    scores.save(tmp_path / "s.npz")
    again = Scores.load(tmp_path / "s.npz")
    assert _same(again, scores) and _same(again.take(np.arange(5)), scores.take(np.arange(20) < 5))


def test_frames_digest_ignores_order() -> None:
    scores = draw_scores(0, 20)
    assert scores.take(np.arange(20)[::-1]).frames_digest == scores.frames_digest
    assert scores.take(np.arange(19)).frames_digest != scores.frames_digest


def test_label_counts() -> None:
    scores = draw_scores(0, 20)
    assert scores.label_counts().tolist() == [int(scores.counts[i, scores.label[i]]) for i in range(20)]


def _column(scores: Scores, name: str, change: Any) -> "dict[str, Any]":
    column = np.array(getattr(scores, name))
    return {name: change(column)}


def _with(column: np.ndarray, index: Any, value: Any) -> np.ndarray:
    column = column.copy()
    column[index] = value
    return column


BAD = {
    "NaN counts": ("counts", lambda c: _with(c.astype(float), (3, 0), np.nan), "expected integers"),
    "negative counts": ("counts", lambda c: _with(c.astype(np.int64), (3, 0), -1), "counts >= 0"),
    "counts beyond N": ("counts", lambda c: _with(c, (3, 0), 10_000), "frame 3 has counts that sum to"),
    "counts whose sum overflows": (
        "counts",
        lambda c: _with(c.astype(np.uint64), (3, slice(None)), [2**64 - 1, 1, 500]),
        "frame 3 has counts",
    ),
    "too few counts": (
        "counts",
        lambda c: _with(c, (3, slice(None)), 0),
        "sum to 0, expected num_samples = 500",
    ),
    "another number of classes": ("counts", lambda c: c[:, :2], r"expected \[n, 3\]"),
    "no draws": ("num_samples", lambda c: _with(c, 3, 0), "num_samples >= 1"),
    "missing row": ("num_samples", lambda c: c[:-1], "with num_samples"),
    "NaN probit": ("probit", lambda c: _with(c, 3, np.nan), "1 probits are NaN"),
    "infinite probit": ("probit", lambda c: _with(c, 3, np.inf), "1 probits are NaN"),
    "integer probit": ("probit", lambda c: c.astype(int), "expected floating point"),
    "long probit": ("probit", lambda c: np.append(c, 0), r"shape \(21,\), expected \(20,\)"),
    "label beyond the classes": ("label", lambda c: _with(c, 3, 3), "labels must be 0 to 2"),
    "negative label": ("label", lambda c: _with(c, 3, -1), "labels must be 0 to 2"),
    "float label": ("label", lambda c: c.astype(float), "expected integers"),
    "text digest": ("digest", lambda c: c.astype("U64"), "expected bytes"),
    "zero difficulty": ("difficulty", lambda c: _with(c, 3, 0), "difficulty must be positive"),
    "vanishing difficulty": (
        "difficulty",
        lambda c: c.astype(np.float64) * 1e-300,
        "difficulty must be positive",
    ),
    "overflowing difficulty": (
        "difficulty",
        lambda c: c.astype(np.float64) * 1e300,
        "difficulty must be positive",
    ),
    "NaN difficulty": ("difficulty", lambda c: _with(c, 3, np.nan), "difficulty must be positive"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_columns_are_refused(case: str) -> None:
    name, change, message = BAD[case]
    scores = draw_scores(0, 20, difficulty=True)
    with pytest.raises(CalibrationError, match=message):
        replace(scores, **_column(scores, name, change))


@pytest.mark.parametrize("sigma", [0.0, -0.25, float("nan")])
def test_bad_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(CalibrationError, match="expected a positive number"):
        replace(draw_scores(0, 5), sigma=sigma)


def test_stored_references_need_their_beta_and_must_be_radii() -> None:
    scores = draw_scores(0, 5)
    with pytest.raises(CalibrationError, match="belong together"):
        replace(scores, reference=np.zeros(5, np.float32))
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(CalibrationError, match="finite and >= 0"):
            replace(scores, reference=np.full(5, value, np.float32), beta=0.1)


def test_a_file_with_a_missing_or_malformed_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    draw_scores(0, 5).save(path)
    arrays, meta = read_arrays(path, "scores", [])
    for field in meta:
        for broken in ({key: value for key, value in meta.items() if key != field}, {**meta, field: [None]}):
            write_arrays(path, arrays, broken)
            with pytest.raises(CalibrationError, match=r"s\.npz"):
                Scores.load(path)
    write_arrays(path, {**arrays, "probit": np.full(5, np.nan, np.float32)}, meta)
    with pytest.raises(CalibrationError, match="5 probits are NaN"):
        Scores.load(path)
