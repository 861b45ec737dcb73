"""Latency of `certify` beside the bare runtime, from raw samples of interleaved calls; nothing is removed or averaged."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from calibration.latency import Latency as LatencyTable
from edge_sdk.certifier import Certifier
from edge_sdk.errors import EdgeError
from edge_sdk.runtime.base import usable_cores

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True)
class Latency:
    """Percentiles of raw samples in seconds: p50, p90, p99, p99.9 and the largest; `samples` is how many."""

    p50: float
    p90: float
    p99: float
    p999: float
    largest: float
    samples: int

    @classmethod
    def of(cls, seconds: np.ndarray) -> "Latency":
        """Order statistics (the sample at rank ceil(q n)), so every figure is a latency that occurred."""
        ordered = np.sort(seconds)
        ranks = [max(int(np.ceil(q * len(ordered))), 1) - 1 for q in QUANTILES.values()]
        p50, p90, p99, p999 = (float(ordered[rank]) for rank in ranks)
        return cls(p50, p90, p99, p999, float(ordered[-1]), len(ordered))


@dataclass(frozen=True)
class Benchmark:
    """Result of `bench`.

    Attributes:
        certify: latency of `Certifier.certify`, from call to certificate.
        bare: latency of the runtime's own call on the same frames with the same outputs.
        again: a second, identical set of bare calls in the same run: what the difference of nothing looks like.
        machine: processor, usable cores and execution.
        raw: float64 [rounds, 3], seconds of every certify, bare and second bare call.
    """

    certify: Latency
    bare: Latency
    again: Latency
    machine: str
    execution: str
    raw: np.ndarray

    def table(self, base_seconds_per_pass: Optional[float] = None) -> LatencyTable:
        """The raw samples as the table that reports read."""
        certify, bare = self.raw[:, 0] * 1e6, self.raw[:, 1] * 1e6
        return LatencyTable(certify, bare, f"{self.machine}, {self.execution}", base_seconds_per_pass)

    @property
    def ratio(self) -> float:
        """certify / bare at p50."""
        return self.certify.p50 / self.bare.p50

    @property
    def ratio_p99(self) -> float:
        """certify / bare at p99."""
        return self.certify.p99 / self.bare.p99

    @property
    def null_ratio(self) -> float:
        """bare / bare at p50."""
        return self.again.p50 / self.bare.p50

    @property
    def overhead(self) -> float:
        """certify - bare at p50, seconds."""
        return self.certify.p50 - self.bare.p50

    def to_json(self) -> Dict[str, Any]:
        derived = {name: getattr(self, name) for name in ("ratio", "ratio_p99", "null_ratio", "overhead")}
        return {**{name: value for name, value in asdict(self).items() if name != "raw"}, **derived}


def bench(
    certifier: Certifier,
    *,
    count: int = 2000,
    frames: Optional[np.ndarray] = None,
    warm_up: int = 100,
    seed: int = 0,
) -> Benchmark:
    """Time `certify` and two identical sets of bare calls, one of each per round and in random order.

    Args:
        count: rounds; p99.9 needs a few thousand.
        frames: [m, ...] to cycle through; by default random ones.
        warm_up: rounds before the first that counts.

    Raises:
        EdgeError: fewer than 1 round, or a certifier that takes batches (its bare call has no single-frame twin).
    """
    signature = certifier.runtime.graph.signature
    if count < 1 or signature.batch_size != 1:
        raise EdgeError(
            f"bench: got {count} rounds at batch size {signature.batch_size}, expected at least 1 and batch size 1"
        )
    rng = np.random.default_rng(seed)
    chosen = random_frames(signature.frame_shape, signature.dtype, rng) if frames is None else frames
    calls = [_calls(certifier, frame) for frame in chosen]
    spent = np.empty((count, 3))
    orders = rng.permuted(np.tile(np.arange(3), (warm_up + count, 1)), axis=1).tolist()
    for round_number, order in enumerate(orders):
        row = calls[round_number % len(calls)]
        for which in order:
            call = row[which]
            start = perf_counter()
            call()
            elapsed = perf_counter() - start
            if round_number >= warm_up:
                spent[round_number - warm_up, which] = elapsed
    certify, bare, again = (Latency.of(spent[:, which]) for which in range(3))
    return Benchmark(certify, bare, again, describe_machine(), certifier.execution.name, spent)


def _calls(certifier: Certifier, frame: np.ndarray) -> List[Callable[[], object]]:
    batch = np.ascontiguousarray(frame)[None]
    bare = certifier.runtime.bare(batch)
    return [partial(certifier.certify, frame), bare, bare]


def random_frames(
    shape: "tuple[int, ...]", dtype: str, rng: np.random.Generator, count: int = 16
) -> np.ndarray:
    """Uniform noise of a graph's frame shape: as costly as any picture."""
    frames = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return frames if dtype == "uint8" else frames.astype(np.float32) / np.float32(255)


def describe_machine() -> str:
    """Processor, cores that this process may use, and Python."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(
                line.split(":", 1)[1].strip() for line in file if line.lower().startswith("model name")
            )
    except (OSError, StopIteration):
        pass
    return f"{processor}, {usable_cores()} of {os.cpu_count()} cores, Python {platform.python_version()}"
