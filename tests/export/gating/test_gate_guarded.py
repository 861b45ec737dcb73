"""The gate's look at the noise itself: what it must notice, on noise that is wrong in one way each."""

from __future__ import annotations

import numpy as np
import pytest

from rrise.calibration.promise.guarded import GRID, NoiseSource
from rrise.export.gating.gate_guarded import unfit

NOISE = NoiseSource(0.12, seed=3).draw((20, 3, 8, 8))


def test_sound_noise_passes() -> None:
    assert unfit(NOISE, 20, 0.12) == ""


@pytest.mark.parametrize(
    ("drawn", "problem"),
    [
        (NOISE[:19], "19 draws for 20 frames"),
        (np.concatenate([NOISE[:19], NOISE[:1]]), "the same"),
        (NOISE + np.float32(GRID / 3), "grid"),
        (NOISE * 2, "0.2"),
        (np.zeros_like(NOISE), "the same"),
    ],
)
def test_what_is_wrong_is_said(drawn: np.ndarray, problem: str) -> None:
    assert problem in unfit(drawn, 20, 0.12)
