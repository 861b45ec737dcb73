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


@pytest.mark.parametrize(
    "wrong",
    [
        {"dark": -1},
        {"dark": 255},
        {"frozen_after": -1},
        {"dark": float("nan")},
        {"noise": -1},
        {"noise": float("nan")},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(EdgeError, match="expected"):
        CheckSettings(**wrong)


def _scene(shape, seed=0):
    """Areas with a little sensor noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (-(-shape[0] // 8), -(-shape[1] // 8), shape[2]))
    area = np.kron(coarse, np.ones((8, 8, 1)))[: shape[0], : shape[1]]
    return np.clip(area + rng.normal(0, 6, shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 48, 1), (224, 224, 3)])
def test_uniform_and_noise_frames_are_found_where_asked_for(shape):
    checks, rng = FrameChecks(CheckSettings.all()), np.random.default_rng(0)
    assert [checks.problem(_scene(shape, seed)) for seed in range(30)] == [""] * 30
    for level in (0, 90, 255):
        assert checks.problem(np.full(shape, level, np.uint8))
    one_colour = np.broadcast_to(np.arange(50, 50 + shape[2], dtype=np.uint8), shape).copy()
    assert "uniform" in checks.problem(one_colour)
    one_colour[shape[0] // 2, shape[1] // 2] = 0
    assert "uniform" not in checks.problem(one_colour)
    noises = {
        "uniform": lambda: rng.integers(0, 256, shape),
        "normal": lambda: np.clip(128 + rng.normal(0, 40, shape), 0, 255),
        "faint": lambda: 120 + rng.normal(0, 8, shape),
    }
    for name, make in noises.items():
        found = ["noise" in checks.problem(make().astype(np.uint8)) for _ in range(40)]
        assert sum(found) >= 38, name
    assert FrameChecks(CheckSettings()).problem(noises["uniform"]().astype(np.uint8)) == ""


def test_small_frames_are_not_judged_for_noise():
    checks = FrameChecks(CheckSettings.all())
    assert all(checks.problem(RNG.integers(0, 256, (8, 8, 1), dtype=np.uint8)) == "" for _ in range(50))


def test_crops_of_one_picture_do_not_freeze():
    checks = FrameChecks(CheckSettings.all())
    assert [checks.problem(_scene((32, 32, 3)), in_order=False) for _ in range(9)] == [""] * 9
