"""The latency table: raw samples of a benchmark, none removed, with the machine they were taken on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.files import read_arrays, write_arrays

PERCENTILES = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0))


@dataclass(frozen=True)
class LatencyTable:
    """Measured by `rrise-edge bench`, calls interleaved in one run.

    Attributes:
        certify: float64 [n], microseconds of each `certify` call.
        bare: float64 [n], microseconds of each plain call of the same graph in the same runtime.
        machine: processor, cores and runtime in words.
        base_seconds_per_pass: of the base classifier on the same machine, where it was measured.
    """

    certify: np.ndarray
    bare: np.ndarray
    machine: str
    base_seconds_per_pass: Optional[float] = None

    def __post_init__(self) -> None:
        for name in ("certify", "bare"):
            samples = np.asarray(getattr(self, name))
            if samples.ndim != 1 or not len(samples) or not (np.isfinite(samples) & (samples > 0)).all():
                raise CalibrationError(f"latency: {name} must hold at least one positive, finite time")

    def save(self, path: PathLike) -> None:
        meta = {
            "table": "latency",
            "machine": self.machine,
            "base_seconds_per_pass": self.base_seconds_per_pass,
        }
        write_arrays(path, {"certify": np.asarray(self.certify), "bare": np.asarray(self.bare)}, meta)

    @classmethod
    def load(cls, path: PathLike) -> "LatencyTable":
        arrays, meta = read_arrays(path, "latency table", ("certify", "bare"))
        if meta.get("table") != "latency":
            raise CalibrationError(f"{path}: got a table of {meta.get('table')!r}, expected latency")
        return cls(arrays["certify"], arrays["bare"], str(meta["machine"]), meta["base_seconds_per_pass"])


def percentiles(samples: np.ndarray) -> Dict[str, float]:
    """p50, p90, p99, p99.9 and max of raw samples, in their own unit."""
    return {name: float(np.percentile(samples, level)) for name, level in PERCENTILES}


def latency_numbers(latency: LatencyTable, num_samples: int) -> Dict[str, Any]:
    """Percentiles in microseconds, their ratio to the bare runtime, and the time against Monte Carlo at num_samples."""
    certify, bare = percentiles(latency.certify), percentiles(latency.bare)
    speed_up = None
    if latency.base_seconds_per_pass is not None:
        speed_up = num_samples * latency.base_seconds_per_pass * 1e6 / certify["p50"]
    return {
        "certify_us": certify,
        "bare_us": bare,
        "ratio": {name: certify[name] / bare[name] for name in certify},
        "speed_up": speed_up,
        "speed_up_against": num_samples,
        "machine": latency.machine,
    }
