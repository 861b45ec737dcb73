"""How fast each engine counts: against the usual loop, and against the fastest plain forward pass, all in one run.

Reference 1 is the sampling loop of locuslab/smoothing (Cohen et al. 2019), written anew: one frame at a time, repeat,
randn_like, add, float32, argmax, copy to the host, count in Python. Engines of every dtype are compared with this float32
loop. Reference 2 is the limit: forward passes on batches that are already there, without noise and counting, at the
best of several batch sizes, by whichever engine is fastest.

On a machine that other programs share, wall time measures them as well; processor time stands beside it on a CPU.
"""

from __future__ import annotations

import copy
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.engines import ClassifierForms, EngineLabeller, open_engine
from rrise.trainer.montecarlo.noise import Cell, NoiseKey
from rrise.trainer.montecarlo.sampler import sample_counts
from rrise.trainer.montecarlo.storage.identity import IMAGE_BLOCK, SAMPLE_BLOCK
from rrise.trainer.montecarlo.storage.store import CountStore

LOOP_BATCH = 1000  # the default of locuslab's certify.py; of a slow network, as many as take a second
MINUTES = 1.0
LONGEST = 4.0
"""Seconds that a single batch may take, from which on larger ones are not tried."""
SMALL_BLOCK = 10  # for slow networks, so that a round does not take minutes
ROUNDS = 5
SECONDS = 1.0
SIGMA = 0.25


class Throughput(NamedTuple):
    """Evaluations per second of wall time, and per second of processor time (the same on a GPU)."""

    wall: float
    processor: float

    def over(self, other: Throughput) -> Throughput:
        """This in units of another."""
        return Throughput(self.wall / other.wall, self.processor / other.processor)


@dataclass(frozen=True)
class Row:
    """One engine. Rates are medians over interleaved rounds. engine: its name, version, precision and device; `plain_at`:
    the batches at which its plain forward pass was fastest."""

    engine: str
    plain: Throughput
    plain_at: str
    counting: Throughput


@dataclass(frozen=True)
class CountingBenchmark:
    """The comparison, with the machine it was made on. loop: the usual loop; noise: drawing and adding noise alone; left_out:
    engines that cannot run here, and why."""

    machine: str
    shape: tuple[int, ...]
    loop: Throughput
    noise: Throughput
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]

    @property
    def limit(self) -> Row:
        """The engine with the fastest plain forward pass."""
        return max(self.rows, key=lambda row: row.plain.wall)

    def to_json(self) -> dict[str, Any]:
        """Plain values for --json."""
        rows = [
            {
                **asdict(row),
                "plain": row.plain._asdict(),
                "counting": row.counting._asdict(),
                "over_loop": row.counting.over(self.loop)._asdict(),
                "of_own_plain": row.counting.over(row.plain)._asdict(),
                "of_limit": row.counting.over(self.limit.plain)._asdict(),
            }
            for row in self.rows
        ]
        return {
            "machine": self.machine,
            "shape": list(self.shape),
            "loop": self.loop._asdict(),
            "noise": self.noise._asdict(),
            "rows": rows,
            "left_out": list(self.left_out),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of every line of the summary."""
        lines = [
            ("machine", self.machine),
            ("input", "x".join(str(side) for side in self.shape)),
            ("usual loop, float32", f"{self.loop.wall:,.0f} evaluations/s"),
            ("noise alone", f"{self.noise.wall:,.0f} evaluations/s"),
        ]
        for row in sorted(self.rows, key=lambda row: -row.counting.wall):
            over, own = row.counting.over(self.loop), row.counting.over(row.plain)
            limit = row.counting.over(self.limit.plain)
            lines += [
                (
                    row.engine,
                    f"{row.counting.wall:,.0f} evaluations/s, {over.wall:.2f}x the usual loop ({over.processor:.2f}x in "
                    "processor time)",
                ),
                (
                    "",
                    f"{own.wall:.0%} of its own plain forward pass ({row.plain.wall:,.0f}, {row.plain_at}), {limit.wall:.0%} "
                    f"of the fastest ({limit.processor:.0%} in processor time)",
                ),
            ]
        return lines + [("left out", text) for text in self.left_out]


def run_benchmark(
    source: ClassifierForms,
    preprocess: nn.Module,
    frames: np.ndarray,
    num_classes: int,
    *,
    engines: tuple[tuple[str, str], ...] = (("torch", "float32"), ("torch", "bfloat16")),
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    batch_sizes: tuple[int, ...] = (16, 64, 256),
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    minutes: float = MINUTES,
    progress: Callable[[str], object] = lambda text: None,
) -> CountingBenchmark:
    """Measure every engine (with its store), the usual loop and plain forward passes, in interleaved rounds.

    Args:
        source: the base classifier; the usual loop needs its module, or runs the first engine.
        frames: uint8 [n, H, W, C], n >= 1; repeated up to one image block.
        engines: name and dtype of each; those that cannot run here are left out, and told.
        batch_size: of counting; None as in `sample_counts`. batch_sizes: tried for the plain forward pass.
        seconds: about how long each contender runs in each round.
        minutes: no round begins after them, and none is longer than its share; the first is always finished.

    Raises:
        TrainerError: no engine can run.
    """
    start, place = time.monotonic(), torch.device(device)
    # The plain passes are tried first, then compared in rounds: each engine, the loop and the noise.
    seconds = min(seconds, 60.0 * minutes / (2 * len(engines) + 2) / 2)
    frames = np.resize(frames, (64, *frames.shape[1:]))
    x = copy.deepcopy(preprocess).to(place)(torch.from_numpy(frames[:1]).to(place))
    contenders: dict[str, Contender] = {}
    found: list[tuple[str, str, str]] = []
    left_out, loop = [], source.module
    with torch.inference_mode():
        for name, dtype in engines:
            progress(f"finding the fastest plain forward pass of {name} in {dtype}")
            try:
                labeller = open_engine(name, source, num_classes=num_classes, dtype=dtype, device=place)
                plain, where = _fastest_plain(labeller, x, batch_sizes, seconds / 4)
            except TrainerError as error:
                left_out.append(f"{name} in {dtype}: {error}")
                continue
            contenders[f"plain {len(found)}"] = plain
            contenders[f"count {len(found)}"] = _counting(
                labeller, preprocess, frames, dtype, place, batch_size
            )
            found.append((labeller.engine, where, name))
            loop = loop if loop is not None else _Logits(labeller)
        if not found or loop is None:
            raise TrainerError(f"benchmark: no engine can run ({'; '.join(left_out)})")
        contenders["loop"] = _loop(loop, x[0], num_classes, seconds)
        contenders["noise"] = _noise(x[0].numel(), num_classes)
        progress("comparing")
        rates = _interleaved(contenders, rounds, seconds, start + 60.0 * minutes)
    rows = tuple(
        Row(engine, rates[f"plain {i}"], where, rates[f"count {i}"])
        for i, (engine, where, _) in enumerate(found)
    )
    return CountingBenchmark(
        describe_device(place), tuple(x.shape[1:]), rates["loop"], rates["noise"], rows, tuple(left_out)
    )


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


def describe_device(device: torch.device) -> str:
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


class _Enough(Exception):
    """Ends a counting that has run for long enough to be timed."""


#: Runs for about so many seconds and returns evaluations per second.
Contender = Callable[[float], Throughput]


class _Logits(nn.Module):
    """An engine as a module, for the usual loop of a base classifier that is an ONNX file from the beginning."""

    def __init__(self, labeller: EngineLabeller) -> None:
        super().__init__()
        self._labeller = labeller

    def forward(self, x: Tensor) -> Tensor:
        return self._labeller.logits(x)


def _loop(classifier: nn.Module, x: Tensor, num_classes: int, seconds: float) -> Contender:
    module = classifier if isinstance(classifier, _Logits) else copy.deepcopy(classifier).eval().to(x.device)
    start = time.perf_counter()
    usual_loop(module, x, 8, 8, num_classes, SIGMA)
    _wait(x.device)
    batch = min(LOOP_BATCH, max(8, int(8 * seconds / (time.perf_counter() - start))))

    def run() -> int:
        usual_loop(module, x, batch, batch, num_classes, SIGMA)
        return batch

    return _repeated(run, x.device)


def _noise(numel: int, num_classes: int) -> Contender:
    """What every counted evaluation pays for its noise on a CPU, whichever engine labels it."""
    cell, rows = Cell(0, 0, 0), max(1, min(SAMPLE_BLOCK, (1 << 16) // numel))
    buffer, frame = np.empty((rows, numel), np.float32), np.zeros(numel, np.float32)
    key, block = NoiseKey(0, "benchmark"), [0]

    def run() -> int:
        generator = key.generator(cell.frame, block[0], 0)
        block[0] += 1
        generator.standard_normal(out=buffer, dtype=np.float32)
        np.multiply(buffer, np.float32(SIGMA), out=buffer)
        np.add(buffer, frame, out=buffer)
        return rows

    return _repeated(run, torch.device("cpu"))


def _plain(labeller: EngineLabeller, x: Tensor, size: int, workers: int) -> Contender:
    """Forward passes on resident batches of `size`: one at a time, or one per worker thread."""
    noisy = x + SIGMA * torch.randn(size, *x.shape[1:], device=x.device)
    resident = [noisy.clone() for _ in range(workers)]
    labeller(resident[0][: max(2, min(size, 16))])  # its checks of a first batch

    @torch.inference_mode()
    def forward(batch: Tensor) -> None:
        labeller.logits(batch)

    def alone() -> int:
        forward(resident[0])
        return size

    if workers == 1:
        return _repeated(alone, x.device)

    def measure(seconds: float) -> Throughput:
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
    labeller: EngineLabeller, x: Tensor, sizes: tuple[int, ...], seconds: float
) -> tuple[Contender, str]:
    """The fastest over batch sizes, and threads that share a batch or have one each."""
    threads = torch.get_num_threads() if x.device.type == "cpu" else 1
    best: tuple[float, Contender, str] | None = None
    for size in sizes:
        for workers in sorted({1, threads if labeller.concurrent else 1}):
            if best is not None and size * workers > LONGEST * best[0]:
                continue
            contender = _plain(labeller, x, size, workers)
            rate = contender(seconds).wall
            if best is None or rate > best[0]:
                each = ", one per thread" if workers > 1 else ""
                best = (rate, contender, f"batches of {size}{each}")
    assert best is not None
    return best[1], best[2]


def _counting(
    labeller: EngineLabeller,
    preprocess: nn.Module,
    frames: np.ndarray,
    dtype: str,
    device: torch.device,
    batch_size: int | None,
) -> Contender:
    """sample_counts on a new store, timed from its first stored block to its last: noise, counting and storing."""
    digests = frame_digests(frames)
    speed = [0.0]

    def count(block: int, groups: int, longest: float) -> Throughput:
        """Rate over `groups` groups of one image block each, after a first batch that warms up; `longest` seconds of it."""
        number = min(len(frames), groups + 1)
        num_samples = block * -(-(groups + 1) * IMAGE_BLOCK // number)
        stored: list[tuple[float, float, int]] = []

        def note(evaluations: int) -> None:
            stored.append((time.perf_counter(), time.process_time(), evaluations))
            if len(stored) > 2 and stored[-1][0] - stored[0][0] > longest:
                raise _Enough

        with tempfile.TemporaryDirectory() as folder:
            store = CountStore.open(
                f"{folder}/t.zarr", stream="benchmark", digests=digests[:number], num_classes=labeller.num_classes,
                sigma=SIGMA, seed=0, base_digest="0" * 64, dtype=dtype, sample_block=block, engine=labeller.engine,
            )  # fmt: skip
            with suppress(_Enough):
                sample_counts(
                    labeller, preprocess, frames[:number], store, num_samples, batch_size=batch_size, device=device,
                    progress=note,
                )  # fmt: skip
        done = sum(evaluations for _, _, evaluations in stored[1:])
        return _rate(done, stored[-1][0] - stored[0][0], stored[-1][1] - stored[0][1], device)

    def run(seconds: float) -> Throughput:
        speed[0] = speed[0] or count(SMALL_BLOCK, 1, seconds).wall
        block = SAMPLE_BLOCK if speed[0] * seconds > SAMPLE_BLOCK * IMAGE_BLOCK else SMALL_BLOCK
        rate = count(block, max(1, round(speed[0] * seconds / (block * IMAGE_BLOCK))), 2 * seconds)
        speed[0] = rate.wall
        return rate

    return run


def _interleaved(
    contenders: dict[str, Contender], rounds: int, seconds: float, end: float
) -> dict[str, Throughput]:
    """Median rates over rounds in which every contender runs once, so that all see the same machine; none begins after
    `end`, but for the first."""
    rates: dict[str, list[Throughput]] = {name: [] for name in contenders}
    for number in range(rounds):
        if number and time.monotonic() > end:
            break
        for name, contender in contenders.items():
            rates[name].append(contender(seconds))
    return {
        name: Throughput(
            statistics.median(rate.wall for rate in values),
            statistics.median(rate.processor for rate in values),
        )
        for name, values in rates.items()
    }


def _repeated(run: Callable[[], int], device: torch.device) -> Contender:
    """Call `run` until the time is up, after one call to warm up."""

    def measure(seconds: float) -> Throughput:
        run()
        _wait(device)
        start, busy, done = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds or not done:
            done += run()
            _wait(device)
        return _rate(done, time.perf_counter() - start, time.process_time() - busy, device)

    return measure


def _rate(done: int, wall: float, processor: float, device: torch.device) -> Throughput:
    per_second = done / max(wall, 1e-9)
    return Throughput(per_second, done / max(processor, 1e-9) if device.type == "cpu" else per_second)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
