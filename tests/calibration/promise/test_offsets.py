"""Scores: exactly the smallest float32 offset of the deployed subtraction, one frame per clip, clip maxima."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rrise.calibration import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.kinds.clips import clip_maxima
from rrise.calibration.promise.maps import step_map
from rrise.calibration.promise.offsets import (
    LEAST,
    excesses,
    independent_frames,
    label_reference,
    one_frame_per_clip,
    proved_reference,
    reference_for,
    smallest_offsets,
)
from rrise.calibration.statistics.bounds import reference_radius
from tests.calibration.helpers import draw_scores

raws = arrays(np.float32, 20, elements=st.floats(-16, 16, width=32))
radii = arrays(np.float32, 20, elements=st.floats(0, 4, width=32))
scales = st.none() | arrays(np.float32, 20, elements=st.floats(2.0**-10, 64, width=32))


@settings(max_examples=300)
@given(raws, radii, scales)
def test_smallest_offset_is_enough_and_its_predecessor_is_not(
    raw: np.ndarray, reference: np.ndarray, scale: np.ndarray
) -> None:
    offset = smallest_offsets(raw, reference, scale)
    u = np.ones_like(raw) if scale is None else scale
    assert offset.dtype == np.float32
    assert (raw - offset * u <= reference).all()
    smaller = np.nextafter(offset, np.float32(-np.inf))
    assert (raw - smaller * u > reference).all()


def test_a_reference_of_more_digits_is_rounded_down() -> None:
    reference = np.random.default_rng(0).uniform(0, 1, 1000)
    offset = smallest_offsets(np.ones(1000, np.float32), reference)
    assert ((np.float32(1) - offset).astype(np.float64) <= reference).all()


def test_no_finite_offset_is_infinity() -> None:
    """A subnormal difficulty times the largest float32 is about 1: an offset that is not enough is never returned."""
    raw, tiny = np.array([3, 3, 3], np.float32), np.array([1e-39, 1e-45, 1e-38], np.float32)
    offset = smallest_offsets(raw, np.zeros(3, np.float32), tiny)
    assert np.isinf(offset).tolist() == [True, True, False]
    assert raw[2] - offset[2] * tiny[2] <= 0


def test_rounding_the_exact_offset_up_is_not_enough() -> None:
    """Why the search: the product q u is rounded too, so the next float32 above (raw - reference) / u may fall short."""
    rng = np.random.default_rng(0)
    raw, reference, u = (rng.uniform(0, 1, 100_000).astype(np.float32) for _ in range(3))
    exact = (raw.astype(np.float64) - reference) / u
    nearest = exact.astype(np.float32)
    up = np.where(nearest < exact, np.nextafter(nearest, np.float32(np.inf)), nearest)
    assert (raw - up * u > reference).mean() > 0.005
    assert (raw - smallest_offsets(raw, reference, u) * u > reference).sum() == 0


@given(raws, radii, st.integers(1, 20))
def test_the_kth_smallest_leaves_at_most_n_minus_k_frames_above(
    raw: np.ndarray, reference: np.ndarray, rank: int
) -> None:
    offset = np.sort(smallest_offsets(raw, reference))[rank - 1]
    assert (raw - offset > reference).sum() <= 20 - rank


def test_label_reference_takes_what_is_stored_for_this_beta_and_else_computes() -> None:
    scores = draw_scores(0, 30)
    computed = reference_radius(scores.counts, scores.num_samples, scores.sigma, 0.1)[
        np.arange(30), scores.label
    ]
    assert (label_reference(scores, 0.1) == computed).all()
    stored = replace(scores, reference=computed, beta=0.1)
    assert label_reference(stored, 0.1) is stored.reference
    assert (label_reference(stored, 0.05) == label_reference(scores, 0.05)).all()


def test_another_beta_is_refused_where_the_stored_radii_were_made_more_careful() -> None:
    scores = draw_scores(0, 30)
    careful = replace(scores, reference=label_reference(scores, 0.1 / 3), beta=0.1)  # three looks
    assert (label_reference(careful, 0.1) == label_reference(scores, 0.1 / 3)).all()
    with pytest.raises(CalibrationError, match=r"beta cannot be changed to 0\.2"):
        label_reference(careful, 0.2)


def test_a_check_believes_neither_counts_nor_stored_radii_alone() -> None:
    scores = draw_scores(0, 30)
    careful = replace(scores, reference=label_reference(scores, 0.01), beta=0.1)
    assert careful.shares_beta() and (careful.reference < label_reference(scores, 0.1)).any()
    assert (proved_reference(careful, 0.1) == careful.reference).all()
    bold = replace(scores, reference=label_reference(scores, 0.1) + np.float32(0.01), beta=0.1)
    assert (proved_reference(bold, 0.1) == label_reference(scores, 0.1)).all() and not bold.shares_beta()


def test_one_frame_per_clip_is_uniform_and_does_not_depend_on_row_order() -> None:
    scores = replace(draw_scores(0, 60), clip=np.repeat(np.arange(20), [1] * 10 + [5] * 10))
    drawn = one_frame_per_clip(scores, 3)
    assert sorted(drawn.clip.tolist()) == list(range(20))
    shuffled = one_frame_per_clip(scores.take(np.random.default_rng(1).permutation(60)), 3)
    assert set(shuffled.digest.tolist()) == set(drawn.digest.tolist())
    place = {digest: row for row, digest in enumerate(scores.digest.tolist())}
    hits = np.zeros(60)
    for seed in range(2000):
        for digest in one_frame_per_clip(scores, seed).digest.tolist():
            hits[place[digest]] += 1
    assert (hits[:10] == 2000).all()
    # 50 frames, each drawn with probability 1/5: six standard deviations, false alarm below 1e-7.
    assert np.abs(hits[10:] - 400).max() < 6 * np.sqrt(2000 * 0.2 * 0.8)


def test_a_copy_in_another_clip_does_not_count_twice() -> None:
    scores = replace(draw_scores(0, 60), clip=np.repeat(np.arange(12), 5))
    digest = scores.digest.copy()
    digest[5:10] = digest[:5]  # the second clip holds the very frames of the first
    assert independent_frames(replace(scores, digest=digest), 0).reshape(12, 5).sum(1).tolist() == [1] * 12


def test_clip_maxima() -> None:
    found = clip_maxima(np.array([1, 5, -2, -3, 4], np.float32), np.array([7, 2, 9, 9, 7]))
    assert found.tolist() == [5.0, 4.0, -2.0]


@pytest.mark.parametrize("difficulty", [False, True])
def test_the_score_of_a_step_is_the_smallest_offset_that_issues_nothing_wrong(difficulty: bool) -> None:
    scores, guarantee = draw_scores(0, 2000, difficulty=True), Guarantee.of()
    head = CertificateHead(scores.sigma, step_map(0.3), difficulty=difficulty)
    found, reference = excesses(scores, head, guarantee), reference_for(scores, guarantee)
    free = reference >= np.float32(0.3)
    assert (found[free] == LEAST).all() and 0.2 < free.mean() < 0.8

    def issued(offsets: np.ndarray) -> np.ndarray:
        radii = np.zeros(len(scores), np.float32)
        for row, offset in enumerate(offsets):
            one = scores.take(np.array([row]))
            radii[row] = head.with_offset((float(offset),)).radius(one.probit, one.label, one.difficulty)[0]
        return radii

    bound = np.flatnonzero(~free)
    scores, reference = scores.take(bound), reference[bound]
    assert (issued(found[bound]) == 0).all()
    assert (issued(np.nextafter(found[bound], np.float32(-np.inf))) == np.float32(0.3)).all()
