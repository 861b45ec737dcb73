"""Which engine counts: each that is installed is tried on a real batch for a moment, and the fastest that agrees is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.engine_labeller import ClassifierForms, EngineLabeller
from rrise.trainer.montecarlo.engines import NAMES, installed, open_engine

AUTO = "auto"
ROUNDS, SECONDS = 3, 0.25
"""Rounds in which every engine runs once, and about how long it then runs."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
"""Largest difference of a logit from the reference's, in units of the largest logit, that is still rounding."""
FLIPS = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.02}
"""Share of labels that rounding may turn on noisy frames."""
SLOW_TO_OPEN = ("torch-compile",)
"""Tried only when named: a quarter of a minute of compiling for less than ONNX Runtime gives without."""


@dataclass(frozen=True)
class Trial:
    """One engine on the trial batch.

    rate: evaluations a second, of processor time on a CPU and of wall time on a GPU; 0 where it was refused. difference:
    largest of a logit, in units of the largest one. flips: share of labels other than the reference's. refused: why it is
    not taken, or empty.
    """

    name: str
    engine: str
    rate: float
    difference: float
    flips: float
    refused: str = ""


@dataclass(frozen=True)
class ChosenEngine:
    """The engine to count with, and everything that was tried."""

    labeller: EngineLabeller
    trials: tuple[Trial, ...]

    def sentence(self) -> str:
        """Which engine, and by how much."""
        rates = {trial.name: trial.rate for trial in self.trials if not trial.refused}
        own, others = (
            rates.pop(self.labeller.name, 0.0),
            sorted(rates.items(), key=lambda item: -item[1]),
        )
        text = self.labeller.engine
        if own and others:
            text += f", {own:,.0f} evaluations/s on trial: " + ", ".join(
                f"{own / rate:.2f} times {name}" for name, rate in others
            )
        refused = [f"{trial.name} left out ({trial.refused})" for trial in self.trials if trial.refused]
        return "; ".join([text, *refused])


def choose_engine(
    source: ClassifierForms,
    noisy: Tensor,
    *,
    num_classes: int,
    dtype: str,
    device: torch.device,
    wanted: str = AUTO,
    seconds: float = SECONDS,
) -> ChosenEngine:
    """Open the engine `wanted`, or of those that are installed the fastest that agrees with the reference.

    The reference is the network in PyTorch, in float32; where the base classifier is an ONNX file, ONNX Runtime.

    Args:
        noisy: float32 [B, C, H, W] on `device`: noisy frames, as many as a counted batch has.

    Raises:
        TrainerError: `wanted` cannot run or disagrees beyond rounding, or no engine can run.
    """
    options = {"num_classes": num_classes, "device": device}
    names = [wanted] if wanted != AUTO else [name for name in NAMES if name not in SLOW_TO_OPEN]
    reference = "torch" if source.module is not None else "onnxruntime"
    expected = open_engine(reference, source, dtype="float32", **options).logits(noisy)  # type: ignore[arg-type]
    opened: list[tuple[EngineLabeller, Trial]] = []
    trials: list[Trial] = []
    for name in names:
        if wanted == AUTO and not installed(name):
            continue
        try:
            labeller = open_engine(name, source, dtype=dtype, **options)  # type: ignore[arg-type]
            trial = _compared(labeller, noisy, expected)
        except TrainerError as error:
            if wanted != AUTO:
                raise
            if _worth_saying(name, device):
                trials.append(Trial(name, "", 0.0, 0.0, 0.0, str(error).split(";")[0]))
            continue
        if trial.refused and wanted != AUTO:
            raise TrainerError(f"engine {labeller.engine!r}: {trial.refused}; take another engine")
        if trial.refused:
            trials.append(trial)
        else:
            opened.append((labeller, trial))
    if not opened:
        said = "; ".join(f"{trial.name}: {trial.refused}" for trial in trials) or "none is installed"
        raise TrainerError(f"no engine can count this base classifier in {dtype} on {device} ({said})")
    rates = _rates([labeller for labeller, _ in opened], noisy, seconds) if len(opened) > 1 else [1.0]
    trials += [Trial(**{**vars(trial), "rate": rate}) for (_, trial), rate in zip(opened, rates, strict=True)]
    best = max(range(len(rates)), key=rates.__getitem__)
    return ChosenEngine(opened[best][0], tuple(trials))


def compare_labellers(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest difference of logits in units of the largest expected one, and the share of other labels."""
    found, expected = found.float(), expected.float()
    scale = max(float(expected.abs().max()), 1e-6)
    difference = float((found - expected).abs().max()) / scale
    return difference, float((found.argmax(1) != expected.argmax(1)).float().mean())


def _compared(labeller: EngineLabeller, noisy: Tensor, expected: Tensor) -> Trial:
    labeller(noisy)  # its own checks of a first batch
    found = labeller.logits(noisy)
    if found.shape != expected.shape:
        raise TrainerError(
            f"engine {labeller.engine!r} returned {list(found.shape)}, expected {list(expected.shape)}"
        )
    difference, flips = compare_labellers(found, expected)
    refused = ""
    if not difference <= TOLERANCE[labeller.dtype] or flips > FLIPS[labeller.dtype]:
        refused = (
            f"disagrees with the reference beyond rounding (logits by {difference:.2g} of the largest one, labels on "
            f"{flips:.1%} of {len(noisy)} noisy frames; expected at most {TOLERANCE[labeller.dtype]:g} and "
            f"{FLIPS[labeller.dtype]:.0%})"
        )
    return Trial(labeller.name, labeller.engine, 0.0, difference, flips, refused)


def _worth_saying(name: str, device: torch.device) -> bool:
    """Whether it is news that an engine cannot run: not on a device that it is not for."""
    return not (name == "openvino" and device.type != "cpu") and not (
        name == "tensorrt" and device.type == "cpu"
    )


def _rates(labellers: list[EngineLabeller], noisy: Tensor, seconds: float) -> list[float]:
    """Best of some interleaved rounds of each: on a busy machine the slower rounds measure the others."""
    threads, best = torch.get_num_threads(), [0.0] * len(labellers)
    on_cpu = noisy.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    try:
        for _ in range(ROUNDS):
            for number, labeller in enumerate(labellers):
                if on_cpu and labeller.concurrent:
                    torch.set_num_threads(1)  # as each of the counter's threads runs it
                with torch.inference_mode():
                    best[number] = max(best[number], _rate(labeller, noisy, seconds / ROUNDS, clock))
                torch.set_num_threads(threads)
    finally:
        torch.set_num_threads(threads)
    return best


def _rate(labeller: EngineLabeller, noisy: Tensor, seconds: float, clock: Callable[[], float]) -> float:
    labeller(noisy)
    start, until, done = clock(), time.perf_counter() + seconds, 0
    while not done or time.perf_counter() < until:
        int(labeller(noisy)[0])  # waits for the device
        done += len(noisy)
    return done / max(clock() - start, 1e-9)
