"""Latency of `certify` beside the bare runtime, from raw samples of interleaved calls; nothing is removed or averaged."""

from __future__ import annotations

import gc
import math
import os
import platform
import sys
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from rrise.calibration.tables.latency import LatencyTable as LatencyTable
from rrise.deprecations import older_names
from rrise.edge_sdk.certifier import Certifier
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.operate.base_time import time_base as time_base
from rrise.edge_sdk.operate.bench_rows import bench_rows as bench_rows
from rrise.edge_sdk.runtime.base import usable_cores

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of raw samples in seconds: p50, p90, p99, p99.9 and the largest; `samples` is how many.

    `p999_interval` holds the two samples between which the true p99.9 lies with 95 % confidence, for independent calls;
    the upper one is infinite where too few calls were made to bound it.
    """

    p50: float
    p90: float
    p99: float
    p999: float
    largest: float
    samples: int
    p999_interval: Tuple[float, float]

    @classmethod
    def of(cls, seconds: np.ndarray) -> "Percentiles":
        """Order statistics (the sample at rank ceil(q n)), so every figure is a latency that occurred."""
        ordered = np.sort(seconds)
        ranks = [max(int(np.ceil(q * len(ordered))), 1) - 1 for q in QUANTILES.values()]
        p50, p90, p99, p999 = (float(ordered[rank]) for rank in ranks)
        return cls(p50, p90, p99, p999, float(ordered[-1]), len(ordered), quantile_interval(ordered, 0.999))


def quantile_interval(ordered: np.ndarray, quantile: float, confidence: float = 0.95) -> Tuple[float, float]:
    """Distribution-free confidence interval of a quantile from ascending samples, by binomial order statistics."""
    count, tail = len(ordered), (1 - confidence) / 2
    hits = np.arange(count + 1)
    logs = np.array([math.lgamma(k + 1) + math.lgamma(count - k + 1) for k in hits])
    mass = np.exp(
        math.lgamma(count + 1) - logs + hits * math.log(quantile) + (count - hits) * math.log1p(-quantile)
    )
    below = np.cumsum(mass)
    lower = int(
        np.searchsorted(below, tail, side="right")
    )  # P(fewer than `lower` samples below the quantile) <= tail
    upper = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return (
        float(ordered[lower - 1]) if lower > 0 else 0.0,
        float(ordered[upper - 1]) if upper <= count else math.inf,
    )


@dataclass(frozen=True)
class Pacing:
    """When calls are made: back to back, at a fixed rate, or at that mean rate with randomly spaced arrivals.

    Attributes:
        rate: calls a second; None is back to back.
        random: exponentially distributed gaps, as cameras behind a network have.
        deadline: seconds; calls that take longer are counted.
    """

    rate: Optional[float] = None
    random: bool = False
    deadline: Optional[float] = None

    def __post_init__(self) -> None:
        for name in ("rate", "deadline"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise EdgeError(f"{name}: got {value}, expected a positive number")
        if self.random and self.rate is None:
            raise EdgeError("randomly spaced arrivals need a mean rate: give `rate`")

    def gaps(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Seconds to wait before each of `count` calls."""
        if self.rate is None:
            return np.zeros(count)
        return rng.exponential(1 / self.rate, count) if self.random else np.full(count, 1 / self.rate)


@dataclass(frozen=True)
class Benchmark:
    """Result of `bench`.

    Attributes:
        certify: latency of `Certifier.certify`, from call to certificate.
        bare: latency of the runtime's own call on the same frames with the same outputs.
        again: a second, identical set of bare calls in the same run: what the difference of nothing looks like.
        machine: processor, usable cores and execution.
        raw: float64 [rounds, 3], seconds of every certify, bare and second bare call.
        pacing: when calls were made.
        new_blocks: blocks of Python's heap that the timed rounds left allocated.
        resident_growth: bytes by which the process's resident memory grew over them; None where the system won't say.
    """

    certify: Percentiles
    bare: Percentiles
    again: Percentiles
    machine: str
    execution: str
    raw: np.ndarray
    pacing: Pacing
    new_blocks: int
    resident_growth: Optional[int]

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
    def deadline_misses(self) -> Optional[int]:
        """Calls of certify that took longer than the deadline; None without one."""
        return None if self.pacing.deadline is None else int((self.raw[:, 0] > self.pacing.deadline).sum())

    @property
    def null_ratio(self) -> float:
        """bare / bare at p50."""
        return self.again.p50 / self.bare.p50

    @property
    def ratio_p999(self) -> float:
        """certify / bare at p99.9."""
        return self.certify.p999 / self.bare.p999

    @property
    def null_ratio_p999(self) -> float:
        """bare / bare at p99.9: how far two runs of the same thing lie apart."""
        return self.again.p999 / self.bare.p999

    @property
    def overhead(self) -> float:
        """certify - bare at p50, seconds."""
        return self.certify.p50 - self.bare.p50

    def to_json(self) -> Dict[str, Any]:
        names = (
            "ratio",
            "ratio_p99",
            "null_ratio",
            "null_ratio_p999",
            "ratio_p999",
            "overhead",
            "deadline_misses",
        )
        derived = {name: getattr(self, name) for name in names}
        return {**{name: value for name, value in asdict(self).items() if name != "raw"}, **derived}


def bench(
    certifier: Certifier,
    *,
    count: int = 2000,
    frames: Optional[np.ndarray] = None,
    warm_up: int = 100,
    seed: int = 0,
    pacing: Pacing = Pacing(),
    wait: Callable[[float], None] = sleep,
) -> Benchmark:
    """Time `certify` and two identical sets of bare calls, one of each per round and in random order.

    Args:
        certifier: on a robot a clone, which has no drift monitor that would take these frames for the camera's.
        count: rounds; p99.9 needs a few thousand.
        frames: [m, ...] to cycle through; by default random ones.
        warm_up: rounds before the first that counts.
        pacing: when calls are made; every call, bare ones too, waits for its own arrival.
        wait: sleeps for some seconds.

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
    certifier._remember_no_frames()  # the same frames again and again, whose answers nobody looks at
    calls = [_calls(certifier, frame) for frame in chosen]
    spent = np.empty((count, 3))
    orders = rng.permuted(np.tile(np.arange(3), (warm_up + count, 1)), axis=1).tolist()
    gaps = pacing.gaps(3 * len(orders), rng).tolist()
    blocks, resident = 0, None
    for round_number, order in enumerate(orders):
        if round_number == warm_up:
            gc.collect()
            blocks, resident = sys.getallocatedblocks(), resident_bytes()
        row = calls[round_number % len(calls)]
        for which in order:
            call, gap = row[which], gaps.pop()
            if gap:
                wait(gap)
            start = perf_counter()
            call()
            elapsed = perf_counter() - start
            if round_number >= warm_up:
                spent[round_number - warm_up, which] = elapsed
    gc.collect()
    after = resident_bytes()
    certify, bare, again = (Percentiles.of(spent[:, which]) for which in range(3))
    return Benchmark(
        certify=certify,
        bare=bare,
        again=again,
        machine=describe_machine(),
        execution=certifier.execution.name,
        raw=spent,
        pacing=pacing,
        new_blocks=sys.getallocatedblocks() - blocks,
        resident_growth=None if after is None or resident is None else after - resident,
    )


def resident_bytes() -> Optional[int]:
    """Resident memory of this process, or None where /proc does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


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


if not TYPE_CHECKING:
    __getattr__ = older_names(__name__, {"Latency": "Percentiles", "text_rows": "bench_rows"})
