"""The selective rule's choices on the tuning split."""

from dataclasses import replace

import numpy as np
import pytest

from rrise.calibration import CalibrationError, Guarantee, calibrate, clopper_pearson_map
from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.maps import step_map
from rrise.calibration.promise.offsets import reference_for
from rrise.calibration.promise.selective import choose_threshold, offset_grid
from tests.calibration.helpers import SIGMA, draw_scores

MAP = clopper_pearson_map(SIGMA, 5000, 0.1)
GUARANTEE = Guarantee.of("selective", "0.1")


def test_the_threshold_nearly_always_exceeds_the_offset_to_come() -> None:
    tuning = draw_scores(0, 600, 5000, split="tuning", start=10**6)
    threshold = choose_threshold(tuning, GUARANTEE, MAP, num_calibration=800)
    assert threshold == float(np.float32(threshold))
    issued = [
        bool(calibrate(draw_scores(seed, 800, 5000), GUARANTEE, MAP, threshold=threshold))
        for seed in range(1, 41)
    ]
    assert np.mean(issued) > 0.9


def test_a_wanted_radius_moves_the_threshold() -> None:
    tuning = draw_scores(0, 2000, 5000, split="tuning")
    low = choose_threshold(tuning, GUARANTEE, MAP)
    high = choose_threshold(tuning, GUARANTEE, MAP, radius=0.45)
    assert high >= low


def test_no_threshold_is_an_error_with_the_number_needed() -> None:
    with pytest.raises(CalibrationError, match="32 issued ones are needed"):
        choose_threshold(draw_scores(0, 20, split="tuning"), GUARANTEE, MAP)


def test_the_grid_falls_from_safe_to_unsafe_and_calibration_finds_its_place_in_it() -> None:
    tuning = draw_scores(0, 600, 5000, split="tuning", start=10**6, difficulty=True)
    grid = offset_grid(tuning, GUARANTEE, MAP, difficulty=True)
    assert len(grid) == 40 and list(grid) == sorted(grid, reverse=True)
    calibration = draw_scores(1, 1500, 5000, difficulty=True)
    record = calibrate(calibration, GUARANTEE, MAP, offsets=grid)
    assert record and grid[-1] < record.head.offset[0] < grid[0]
    head = CertificateHead(SIGMA, MAP, difficulty=True)
    shares = []
    for offset in (grid[0], grid[-1]):
        radius = head.with_offset((offset,)).radius(tuning.probit, tuning.label, tuning.difficulty)
        shares.append((radius > reference_for(tuning, GUARANTEE)).sum() / max((radius > 0).sum(), 1))
    assert shares[0] < float(GUARANTEE.alpha) / 2 < float(GUARANTEE.alpha) < shares[1] + 0.02


def test_a_hopeless_surrogate_has_no_grid() -> None:
    tuning = draw_scores(0, 200, split="tuning")
    wrong = replace(tuning, counts=np.roll(tuning.counts, 1, axis=1), probit=np.full(200, 3, np.float32))
    with pytest.raises(CalibrationError, match="selective: every offset"):
        offset_grid(wrong, Guarantee.of("selective", "0.01"), MAP)


def test_the_grid_of_a_step_leaves_out_frames_that_hold_at_any_offset() -> None:
    tuning = draw_scores(0, 600, 5000, split="tuning", start=10**6)
    grid = offset_grid(tuning, GUARANTEE, step_map(0.3))
    assert min(grid) > -1 and len(set(grid)) == 40
    record = calibrate(draw_scores(1, 1500, 5000), GUARANTEE, step_map(0.3), offsets=grid)
    assert record and grid[-1] < record.head.offset[0] < grid[0]
