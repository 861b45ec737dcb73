"""How fast each engine counts: against the usual loop, and against the fastest plain forward pass, all in one run.

Reference 1 is the sampling loop of locuslab/smoothing (Cohen et al. 2019), written anew: one frame at a time, repeat,
randn_like, add, float32, argmax, copy to the host, count in Python. Engines of every dtype are compared with this float32
loop, which runs as PyTorch comes: on a GPU its convolutions take TF32, and those of our float32 do not. Reference 2 is the
limit: forward passes on batches that are already there, without noise and counting, at the best of several batch sizes, by
whichever engine is fastest.

On a machine that other programs share, wall time measures them as well; processor time stands beside it on a CPU.
"""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rrise.trainer.brought.user_code import describe_error
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.engine_labeller import ClassifierForms
from rrise.trainer.montecarlo.engines import open_engine
from rrise.trainer.montecarlo.speed.contenders import (
    Contender,
    Logits,
    Throughput,
    counting_contender,
    fastest_plain,
    loop_contender,
    noise_contender,
)

MINUTES = 1.0
ROUNDS = 5
SECONDS = 1.0


@dataclass(frozen=True)
class Row:
    """One engine; rates are medians over interleaved rounds.

    engine: its name, version, precision and device; `plain_at`: the batches at which its plain forward pass was fastest.
    """

    engine: str
    plain: Throughput
    plain_at: str
    counting: Throughput


@dataclass(frozen=True)
class CountingBenchmark:
    """The comparison, with the machine it was made on.

    loop: the usual loop; noise: drawing and adding noise alone; left_out: engines that cannot run here, and why.
    """

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
    batch_sizes: tuple[int, ...] = (),
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
        batch_size: of counting; None as in `sample_counts`. batch_sizes: tried for the plain forward pass; none: those that fit
            the device.
        seconds: about how long each contender runs in each round.
        minutes: no round begins after them, and none is longer than its share; the first is always finished.

    Raises:
        TrainerError: no engine can run.
    """
    start, place = time.monotonic(), torch.device(device)
    # The plain passes are tried first, then compared in rounds: each engine, the loop and the noise.
    batch_sizes = batch_sizes or ((64, 256, 1024) if place.type == "cuda" else (16, 64, 256))
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
                plain, where = fastest_plain(labeller, x, batch_sizes, seconds / 4)
            except TrainerError as error:
                left_out.append(f"{name} in {dtype}: {error}")
                continue
            contenders[f"plain {len(found)}"] = plain
            contenders[f"count {len(found)}"] = counting_contender(
                labeller, preprocess, frames, dtype, place, batch_size
            )
            found.append((labeller.engine, where, name))
            loop = loop if loop is not None else Logits(labeller)
        if not found or loop is None:
            raise TrainerError(f"benchmark: no engine can run ({'; '.join(left_out)})")
        contenders["loop"] = loop_contender(loop, x[0], num_classes, seconds)
        contenders["noise"] = noise_contender(x[0].numel(), num_classes)
        progress("comparing")
        rates, failed = _interleaved(contenders, rounds, seconds, start + 60.0 * minutes)
    if {"loop", "noise"} & set(failed) or not any(f"count {i}" in rates for i in range(len(found))):
        raise TrainerError(
            f"benchmark: {'; '.join(f'{name} failed: {text}' for name, text in failed.items())}"
        )
    rows = []
    for i, (engine, where, _) in enumerate(found):
        names = (f"plain {i}", f"count {i}")
        if set(names) <= set(rates):
            rows.append(Row(engine, rates[names[0]], where, rates[names[1]]))
        else:
            left_out.append(f"{engine}: {next(failed[name] for name in names if name in failed)}")
    return CountingBenchmark(
        describe_device(place),
        tuple(x.shape[1:]),
        rates["loop"],
        rates["noise"],
        tuple(rows),
        tuple(left_out),
    )


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


def _interleaved(
    contenders: dict[str, Contender], rounds: int, seconds: float, end: float
) -> tuple[dict[str, Throughput], dict[str, str]]:
    """Median rates over rounds in which every contender runs once, so that all see the same machine; and who failed, and why.

    None begins after `end`, but for the first.
    """
    rates: dict[str, list[Throughput]] = {name: [] for name in contenders}
    failed: dict[str, str] = {}
    for number in range(rounds):
        if number and time.monotonic() > end:
            break
        for name in [name for name in rates if name not in failed]:
            try:
                rates[name].append(contenders[name](seconds))
            except (RuntimeError, MemoryError, TrainerError) as error:
                failed[name] = describe_error(error)
    return {
        name: Throughput(
            statistics.median(rate.wall for rate in values),
            statistics.median(rate.processor for rate in values),
        )
        for name, values in rates.items()
        if name not in failed
    }, failed
