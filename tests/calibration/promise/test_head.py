"""Properties of the certificate head: monotone, never NaN, never negative, NaN abstains."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rrise.calibration import CalibrationError, CertificateHead, RadiusMap, clopper_pearson_map
from rrise.calibration.promise.maps import step_map
from rrise.calibration.storage.files import read_json, write_json

CP = clopper_pearson_map(0.25, 1000, 0.1)
any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)
heads = st.builds(
    CertificateHead,
    sigma=st.floats(0.01, 2),
    map=st.sampled_from(
        [
            RadiusMap("identity", (), ()),
            CP,
            step_map(0.3),
            replace(CP, radii=(0.1, 0.2), thresholds=(0.1, 0.15)),
        ]
    ),
    offset=st.lists(st.floats(-1, 3) | st.just(math.inf), min_size=1, max_size=1).map(tuple)
    | st.lists(st.floats(-1, 3), min_size=4, max_size=4).map(tuple),
    difficulty=st.booleans(),
    threshold=st.none() | st.floats(0, 1),
)


@given(
    heads,
    arrays(np.float32, 8, elements=any_float),
    arrays(np.int64, 8, elements=st.integers(0, 3)),
    st.data(),
)
def test_never_nan_never_negative(
    head: CertificateHead, probit: np.ndarray, label: np.ndarray, data: st.DataObject
) -> None:
    difficulty = data.draw(arrays(np.float32, 8, elements=any_float)) if head.difficulty else None
    radius = head.radius(probit, label, difficulty)
    assert radius.dtype == np.float32 and radius.shape == (8,)
    assert (radius >= 0).all()
    assert (radius[np.isnan(probit)] == 0).all()
    if difficulty is not None:
        assert (radius[~((difficulty > 0) & np.isfinite(difficulty))] == 0).all()
    if head.issues_nothing:
        assert (radius[~np.isinf(probit)] == 0).all()


@given(
    heads,
    arrays(np.float32, 30, elements=st.floats(-10.75, 10.75, width=32)),
    st.integers(0, 3),
    st.floats(0.0078125, 8, width=32),
)
def test_a_larger_probit_never_gives_a_smaller_radius(
    head: CertificateHead, probit: np.ndarray, label: int, u: float
) -> None:
    probit = np.sort(probit)
    difficulty = np.full(30, u, np.float32) if head.difficulty else None
    radius = head.radius(probit, np.full(30, label), difficulty).astype(np.float64)
    assert (np.diff(radius) >= -2e-6).all()  # the map's segments meet up to float32 rounding


@given(heads, arrays(np.float32, 10, elements=st.floats(-10.75, 10.75, width=32)), st.floats(0, 1))
def test_a_larger_offset_never_gives_a_larger_radius(
    head: CertificateHead, probit: np.ndarray, more: float
) -> None:
    label, u = np.zeros(10, np.int64), np.full(10, 0.5, np.float32) if head.difficulty else None
    wider = head.with_offset([value + more for value in head.offset])
    assert (wider.radius(probit, label, u) <= head.radius(probit, label, u)).all()


def test_by_hand() -> None:
    head = CertificateHead(0.5, offset=(0.25, 1.0), threshold=0.6)
    radius = head.radius(np.array([1.0, 1.5, 2.5, 2.5], np.float32), np.array([0, 0, 0, 1]))
    assert radius.tolist() == [0.0, 0.5, 1.0, 0.25]  # raw .5 is not above the threshold
    assert replace(head, threshold=None).radius(np.array([1.0], np.float32), np.array([0])).tolist() == [0.25]
    scaled = CertificateHead(0.5, offset=(0.25,), difficulty=True)
    assert scaled.radius(
        np.full(3, 2, np.float32), np.zeros(3, int), np.array([1, 4, 0.5], np.float32)
    ).tolist() == [
        0.75,
        0.0,
        0.875,
    ]


def test_json_round_trip_keeps_infinity_and_every_bit(tmp_path) -> None:
    for head in (
        CertificateHead(0.25),
        CertificateHead(0.1, CP, (0.1, 0.2, 1 / 3), True, 0.123456789),
        CertificateHead(1.0, offset=(-0.25,)),
    ):
        write_json(tmp_path / "head.json", head.to_json())
        assert CertificateHead.from_json(read_json(tmp_path / "head.json", "head")) == head


def test_a_missing_difficulty_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="difficulty: got None"):
        CertificateHead(0.25, offset=(0.1,), difficulty=True).radius(
            np.zeros(1, np.float32), np.zeros(1, int)
        )


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(CalibrationError, match="sigma: got"):
        CertificateHead(sigma)


@pytest.mark.parametrize("offset", [(), (math.nan,), (-math.inf,), (0.1, math.nan)])
def test_offsets_that_could_issue_anything_are_refused(offset: "tuple[float, ...]") -> None:
    with pytest.raises(CalibrationError, match="offset: got"):
        CertificateHead(0.25, offset=offset)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_an_offset_is_refused(label: int) -> None:
    with pytest.raises(CalibrationError, match="label: got"):
        CertificateHead(0.25, offset=(0.1, 0.2)).radius(np.ones(1, np.float32), np.array([label]))


def test_threshold_must_be_finite() -> None:
    with pytest.raises(CalibrationError, match="threshold: got"):
        CertificateHead(0.25, threshold=math.nan)


def test_a_step_issues_its_radius_where_it_is_reached_and_nothing_else() -> None:
    head = CertificateHead(0.5, step_map(0.75), offset=(0.25, -0.25))
    below = np.nextafter(np.float32(2), np.float32(0))
    probit = np.array([2.0, below, 40.0, 1.0, np.nan, np.inf], np.float32)
    radius = head.radius(probit, np.array([0, 0, 0, 1, 0, 0]))
    assert radius.tolist() == [0.75, 0.0, 0.75, 0.75, 0.0, 0.75] and radius.dtype == np.float32
    assert CertificateHead.from_json(head.to_json()) == head
