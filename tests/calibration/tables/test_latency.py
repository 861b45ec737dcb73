"""The latency table: percentiles of raw samples, round trip, refusal of times that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import CalibrationError
from rrise.calibration.tables.latency import LatencyTable, latency_numbers, percentiles


def test_percentiles_are_those_of_the_raw_samples() -> None:
    samples = np.arange(1, 1002, dtype=float)
    assert percentiles(samples) == pytest.approx(
        {"p50": 501, "p90": 901, "p99": 991, "p99.9": 1000, "max": 1001}
    )


def test_round_trip(tmp_path: Path) -> None:
    table = LatencyTable(np.array([3.0, 1.0]), np.array([2.0]), "machine", 1e-5)
    table.save(tmp_path / "latency.npz")
    back = LatencyTable.load(tmp_path / "latency.npz")
    assert back.certify.tolist() == [3.0, 1.0] and back.bare.tolist() == [2.0]
    assert (back.machine, back.base_seconds_per_pass) == ("machine", 1e-5)


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0], [np.nan], [np.inf]])
def test_impossible_times_are_refused(samples: "list[float]") -> None:
    with pytest.raises(CalibrationError, match="positive, finite"):
        LatencyTable(np.array(samples), np.array([1.0]), "machine")


def test_no_speed_up_without_a_measured_base_classifier() -> None:
    assert latency_numbers(LatencyTable(np.ones(3), np.ones(3), "machine"), 1000)["speed_up"] is None
