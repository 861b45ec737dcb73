"""Noise in cells: normal, independent between cells, and the same in whatever pieces it is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rrise.trainer.montecarlo import noise
from rrise.trainer.montecarlo.noise import Cell, NoiseFiller, NoiseKey, sample_batches, units

KEY = NoiseKey(seed=5, stream="calibration")


def drawn(cells: list[Cell], batch_size: int, threads: int, sample_block: int = 12) -> np.ndarray:
    """All noisy samples of `cells` in order, [cells * sample_block, 4, 4, 1]."""
    frames = np.arange(3 * 16, dtype=np.float32).reshape(3, 4, 4, 1)
    filler = NoiseFiller(0.25, threads)
    parts = []
    for pieces in sample_batches(units(KEY, cells, sample_block, 16), batch_size):
        buffer = np.full((pieces[-1].stop, 4, 4, 1), np.nan, dtype=np.float32)
        filler.fill(buffer, frames, pieces)
        parts.append(buffer)
    filler.close()
    return np.concatenate(parts)


@pytest.mark.parametrize("unit_numbers", [16, 80, 1 << 16])
def test_the_same_noise_in_any_pieces(monkeypatch, unit_numbers):
    monkeypatch.setattr(noise, "UNIT_NUMBERS", unit_numbers)
    cells = [Cell(row, 100 + row, block) for block in (0, 3) for row in range(3)]
    whole = drawn(cells, 72, threads=1)
    assert whole.shape == (72, 4, 4, 1) and np.isfinite(whole).all()
    for batch_size, threads in ((1, 1), (5, 2), (7, 3), (64, 4)):
        np.testing.assert_array_equal(drawn(cells, batch_size, threads), whole)
    # A cell alone, and in another order: what it gets is its own.
    for number, cell in enumerate(cells):
        np.testing.assert_array_equal(drawn([cell], 5, 1), whole[12 * number : 12 * number + 12])


def test_noise_is_added_in_float32_and_scaled_by_sigma():
    z = (drawn([Cell(2, 7, 1)], 12, 1) - np.arange(32, 48, dtype=np.float32).reshape(4, 4, 1)).ravel() / 0.25
    own = KEY.generator(7, 1, 0).standard_normal(12 * 16, dtype=np.float32)
    np.testing.assert_allclose(z, own, atol=2e-5)


def test_standard_normal_and_independent_between_cells_units_streams_and_seeds():
    def z(key: NoiseKey, frame: int, block: int, unit: int) -> np.ndarray:
        return key.generator(frame, block, unit).standard_normal(20_000, dtype=np.float32).astype(np.float64)

    keys = [KEY, NoiseKey(5, "verification"), NoiseKey(6, "calibration")]
    table = np.stack([z(key, f, b, u) for key in keys for f in (0, 1) for b in (0, 1) for u in (0, 1)])
    values = [stats.kstest(row, "norm").pvalue for row in table]
    assert stats.kstest(values, "uniform").pvalue > 1e-5
    # 276 correlations of n = 20,000 and as many of squares: each beyond 5 standard errors once in 10^6.
    for samples in (table, table**2):
        correlation = np.corrcoef(samples) - np.eye(len(table))
        assert np.abs(correlation).max() < 5.5 / np.sqrt(20_000)
