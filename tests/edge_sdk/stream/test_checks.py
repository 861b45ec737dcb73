"""Dark and frozen pictures are found, sound ones pass."""

from __future__ import annotations

import numpy as np
import pytest

from rrise.edge_sdk import CheckSettings, EdgeError
from rrise.edge_sdk.stream.checks import FrameChecks, subsample

RNG = np.random.default_rng(0)


def _noise(level=100):
    return RNG.integers(0, 2 * level, (480, 640, 3), dtype=np.uint8)


def test_sound_frames_pass_and_dark_ones_do_not():
    checks = FrameChecks(CheckSettings())
    assert all(checks.problem(_noise()) == "" for _ in range(20))
    assert "dark" in checks.problem(_noise(1))
    assert "dark" in checks.problem(np.zeros((8, 8, 1), np.uint8))
    assert checks.problem(_noise()) == ""
    assert "dark" in checks.problem(np.full((3, 40, 40), 0.01, np.float32))
    assert checks.problem(np.full((3, 40, 40), 0.5, np.float32)) == ""


def test_a_frozen_picture_is_found_after_the_allowed_repeats():
    checks, frame = FrameChecks(CheckSettings(frozen_after=3)), _noise()
    verdicts = [checks.problem(frame.copy()) for _ in range(6)]
    assert [bool(verdict) for verdict in verdicts] == [False, False, False, True, True, True]
    assert "frozen: 3 frames" in verdicts[3]
    assert checks.problem(_noise()) == "" and checks.problem(frame) == ""


def test_both_checks_can_be_switched_off():
    checks = FrameChecks(CheckSettings(dark=0, frozen_after=0))
    black = np.zeros((8, 8, 1), np.uint8)
    assert [checks.problem(black) for _ in range(9)] == [""] * 9


def test_the_subsample_is_small_and_a_copy():
    frame = _noise()
    sample = subsample(frame)
    assert sample.size <= 3 * 33 * 33 and not np.shares_memory(sample, frame)
    assert subsample(np.zeros((5, 7, 1), np.uint8)).shape == (5, 7, 1)


@pytest.mark.parametrize("wrong", [{"dark": -1}, {"dark": 255}, {"frozen_after": -1}, {"dark": float("nan")}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(EdgeError, match="expected"):
        CheckSettings(**wrong)
