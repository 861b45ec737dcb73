"""How fast the engine counts: against the usual loop, and against the plain forward pass, all in one run.

Reference 1 is the sampling loop of locuslab/smoothing (Cohen et al. 2019), written anew: one frame at a time, repeat,
randn_like, add, float32, argmax, copy to the host, count in Python. Engines of every dtype are compared with this float32
loop. Reference 2 is the limit: forward passes of the same network on a batch that is already there, without noise and
counting, at the fastest of several layouts and batch sizes.
"""

from __future__ import annotations

import copy
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.montecarlo.folding import fold_batch_norm
from rrise.trainer.montecarlo.identity import IMAGE_BLOCK, SAMPLE_BLOCK
from rrise.trainer.montecarlo.sampler import sample_counts
from rrise.trainer.montecarlo.store import CountStore

LOOP_BATCH = 1000  # the default of locuslab's certify.py
SMALL_BLOCK = 10  # for slow networks, so that a round does not take minutes
ROUNDS = 5
SECONDS = 1.0
SIGMA = 0.25


@dataclass(frozen=True)
class Row:
    """One dtype. Rates are evaluations per second, medians over interleaved rounds; `plain_at` says where the limit
    was reached; `folded` is the plain forward of the network with its batch normalisation folded, as the engine runs
    it."""

    dtype: str
    loop: float
    plain: float
    plain_at: str
    folded: float
    engine: float

    @property
    def over_loop(self) -> float:
        """The engine against reference 1; above 1 is faster."""
        return self.engine / self.loop

    @property
    def of_limit(self) -> float:
        """The engine against reference 2; 1 is the speed of the plain forward pass."""
        return self.engine / self.plain


@dataclass(frozen=True)
class Benchmark:
    """The comparison, with the machine it was made on."""

    machine: str
    shape: tuple[int, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for --json."""
        rows = [{**asdict(row), "over_loop": row.over_loop, "of_limit": row.of_limit} for row in self.rows]
        return {"machine": self.machine, "shape": list(self.shape), "rows": rows}

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of every line of the summary."""
        result = [("machine", self.machine), ("input", "x".join(str(side) for side in self.shape))]
        for row in self.rows:
            result += [
                (f"{row.dtype}: engine", f"{row.engine:,.0f} evaluations/s"),
                (
                    f"{row.dtype}: usual loop in float32",
                    f"{row.loop:,.0f} evaluations/s; the engine is {row.over_loop:.2f}x",
                ),
                (
                    f"{row.dtype}: plain forward",
                    f"{row.plain:,.0f} evaluations/s ({row.plain_at}); the engine reaches {row.of_limit:.0%}",
                ),
                (
                    f"{row.dtype}: folded forward",
                    f"{row.folded:,.0f} evaluations/s; the engine reaches {row.engine / row.folded:.0%}",
                ),
            ]
        return result


def run_benchmark(
    classifier: nn.Module,
    preprocess: nn.Module,
    frames: np.ndarray,
    num_classes: int,
    *,
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    batch_sizes: tuple[int, ...] = (32, 128, 512),
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    progress: Callable[[str], object] = lambda text: None,
) -> Benchmark:
    """Measure the engine (with its store), the usual loop and the plain forward pass, in interleaved rounds.

    Args:
        frames: uint8 [n, H, W, C], n >= 1; repeated up to one image block.
        batch_size: of the engine; None as in `sample_counts`. batch_sizes: tried for the plain forward pass.
        seconds: about how long each contender runs in each round.
    """
    place = torch.device(device)
    frames = np.resize(frames, (64, *frames.shape[1:]))
    x = copy.deepcopy(preprocess).to(place)(torch.from_numpy(frames[:1]).to(place))
    rows = []
    with torch.inference_mode():
        for dtype in dtypes:
            progress(f"finding the fastest plain forward pass in {dtype}")
            module = copy.deepcopy(classifier).eval().to(place)
            plain, where = _fastest_plain(module, x, getattr(torch, dtype), batch_sizes, seconds / 4)
            folded, _ = _fastest_plain(
                fold_batch_norm(module), x, getattr(torch, dtype), batch_sizes, seconds / 4
            )
            contenders = {
                "loop": _loop(classifier, x[0], num_classes),
                "plain": plain,
                "folded": folded,
                "engine": _engine(classifier, preprocess, frames, num_classes, dtype, place, batch_size),
            }
            progress(f"comparing in {dtype}")
            rates = _interleaved(contenders, rounds, seconds)
            rows.append(Row(dtype, rates["loop"], rates["plain"], where, rates["folded"], rates["engine"]))
    return Benchmark(describe_machine(place), tuple(x.shape[1:]), tuple(rows))


def usual_loop(
    classifier: Callable[[Tensor], Tensor],
    x: Tensor,
    num: int,
    batch_size: int,
    num_classes: int,
    sigma: float,
) -> np.ndarray:
    """locuslab's `Smooth._sample_noise` and `_count_arr`: class counts of one frame x [C, H, W]."""
    counts = np.zeros(num_classes, dtype=int)
    while num > 0:
        this_batch_size = min(batch_size, num)
        num -= this_batch_size
        batch = x.repeat((this_batch_size, 1, 1, 1))
        noise = torch.randn_like(batch) * sigma
        predictions = classifier(batch + noise).argmax(1)
        for index in predictions.cpu().numpy():
            counts[index] += 1
    return counts


def describe_machine(device: torch.device) -> str:
    """The processor or GPU, its threads, and the version of torch."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    level = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {torch.get_num_threads()} threads, {level}, torch {torch.__version__}"


#: Runs for about so many seconds and returns evaluations per second.
Contender = Callable[[float], float]


def _loop(classifier: nn.Module, x: Tensor, num_classes: int) -> Contender:
    module = copy.deepcopy(classifier).eval().to(x.device)

    def run() -> int:
        usual_loop(module, x, LOOP_BATCH, LOOP_BATCH, num_classes, SIGMA)
        return LOOP_BATCH

    return _repeated(run, x.device)


def _plain(
    module: nn.Module, x: Tensor, dtype: torch.dtype, layout: torch.memory_format, size: int, workers: int
) -> Contender:
    """Forward passes on resident batches of `size`: one at a time, or one per worker thread."""
    ready = copy.deepcopy(module).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
    noisy = x + SIGMA * torch.randn(size, *x.shape[1:], device=x.device)
    resident = [noisy.to(dtype).contiguous(memory_format=layout) for _ in range(workers)]

    @torch.inference_mode()
    def forward(batch: Tensor) -> None:
        ready(batch)

    def alone() -> int:
        forward(resident[0])
        return size

    if workers == 1:
        return _repeated(alone, x.device)

    def measure(seconds: float) -> float:
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:

            def together() -> int:
                list(pool.map(forward, resident))
                return size * workers

            rate = _repeated(together, x.device)(seconds)
        torch.set_num_threads(threads)  # one setting for the whole process
        return rate

    return measure


def _fastest_plain(
    module: nn.Module, x: Tensor, dtype: torch.dtype, sizes: tuple[int, ...], seconds: float
) -> tuple[Contender, str]:
    """The fastest over memory layouts, batch sizes, and threads that share a batch or have one each."""
    threads = torch.get_num_threads() if x.device.type == "cpu" else 1
    best: tuple[float, Contender, str] | None = None
    for name, layout in (("NCHW", torch.contiguous_format), ("channels_last", torch.channels_last)):
        for size in sizes:
            for workers in sorted({1, threads}):
                contender = _plain(module, x, dtype, layout, size, workers)
                rate = contender(seconds)
                if best is None or rate > best[0]:
                    each = ", one per thread" if workers > 1 else ""
                    best = (rate, contender, f"{name}, batches of {size}{each}")
    assert best is not None
    return best[1], best[2]


def _engine(
    classifier: nn.Module,
    preprocess: nn.Module,
    frames: np.ndarray,
    num_classes: int,
    dtype: str,
    device: torch.device,
    batch_size: int | None,
) -> Contender:
    """sample_counts on a new store, timed from its first stored block to its last: noise, counting and storing."""
    digests = frame_digests(frames)
    speed = [0.0]

    def count(block: int, groups: int) -> float:
        """Rate over `groups` groups of one image block each, after a first one that warms up."""
        number = min(len(frames), groups + 1)
        num_samples = block * -(-(groups + 1) * IMAGE_BLOCK // number)
        stored: list[tuple[float, int]] = []
        with tempfile.TemporaryDirectory() as folder:
            store = CountStore.open(
                f"{folder}/t.zarr", stream="benchmark", digests=digests[:number], num_classes=num_classes,
                sigma=SIGMA, seed=0, base_digest="0" * 64, dtype=dtype, sample_block=block,
            )  # fmt: skip
            sample_counts(
                classifier, preprocess, frames[:number], store, num_samples, batch_size=batch_size, device=device,
                progress=lambda evaluations: stored.append((time.perf_counter(), evaluations)),
            )  # fmt: skip
        return sum(evaluations for _, evaluations in stored[1:]) / (stored[-1][0] - stored[0][0])

    def run(seconds: float) -> float:
        speed[0] = speed[0] or count(SMALL_BLOCK, 1)
        block = SAMPLE_BLOCK if speed[0] * seconds > SAMPLE_BLOCK * IMAGE_BLOCK else SMALL_BLOCK
        speed[0] = count(block, max(1, round(speed[0] * seconds / (block * IMAGE_BLOCK))))
        return speed[0]

    return run


def _interleaved(contenders: dict[str, Contender], rounds: int, seconds: float) -> dict[str, float]:
    """Median rates over rounds in which every contender runs once, so that all see the same machine."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            rates[name].append(contender(seconds))
    return {name: statistics.median(values) for name, values in rates.items()}


def _repeated(run: Callable[[], int], device: torch.device) -> Contender:
    """Call `run` until the time is up, after one call to warm up."""

    def measure(seconds: float) -> float:
        run()
        _wait(device)
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            done += run()
            _wait(device)
        return done / (time.perf_counter() - start)

    return measure


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
