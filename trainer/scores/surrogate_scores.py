"""The PyTorch execution of the surrogate: runs it on a split and writes the scores table that calibration reads."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.promise.guarded import NoiseSource
from rrise.calibration.statistics.probit import probit_from_logits
from rrise.calibration.storage.execution import Execution
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.trainer.data.preprocess import Preprocess

BATCH_SIZE = 64
SPLIT_SEEDS = {"train": 0, "tuning": 1, "calibration": 2, "verification": 3, "test": 4}
"""Seeds of the guard noise, one draw per frame and the same in every run, so that a run again is no second look. The
noise of a deployed pass comes from the operating system instead."""


@dataclass(frozen=True)
class Predicted:
    """The surrogate on n frames: label int64 [n], probit float32 [n], difficulty float32 [n] or None."""

    label: np.ndarray
    probit: np.ndarray
    difficulty: np.ndarray | None


def pytorch_execution(artefact: str, guard_noise: float = 0.0) -> Execution:
    """The execution that `run_surrogate` is: PyTorch on this processor, float32, fixed batches."""
    guard = (("guard_noise", repr(guard_noise)),) if guard_noise else ()
    return Execution(
        artefact=artefact,
        runtime="pytorch",
        version=torch.__version__,
        provider="cpu",
        architecture=platform.machine(),
        options=(("dtype", "float32"), *guard),
        batch_size=BATCH_SIZE,
    )


def guard_noise(preprocess: Preprocess, count: int, noise: float, split: str) -> np.ndarray | None:
    """One draw of guard noise for each of `count` frames of a split, float32 [count, C, h, w]; None without a guard."""
    if not noise:
        return None
    return NoiseSource(noise, seed=SPLIT_SEEDS[split]).draw((count, *preprocess.output_shape))


def run_surrogate(
    network: nn.Module, preprocess: Preprocess, frames: np.ndarray, noise: np.ndarray | None = None
) -> Predicted:
    """Run the surrogate on frames uint8 [n, H, W, C], with noise float32 [n, C, h, w] in pixel levels where guarded.

    Every call of the network has exactly BATCH_SIZE frames (the last is filled up with its first frame), because
    rounding depends on the batch size.
    """

    def batch(rows: slice) -> Tensor:
        extra = None if noise is None else _filled(noise[rows])
        inputs: Tensor = preprocess(_filled(frames[rows]), extra)
        return inputs

    return _run(network, len(frames), batch)


def predict_inputs(network: nn.Module, inputs: np.ndarray) -> Predicted:
    """Run the surrogate on preprocessed frames float32 [n, C, h, w], guard noise included."""
    return _run(network, len(inputs), lambda rows: _filled(inputs[rows]))


def _run(network: nn.Module, count: int, batch: Callable[[slice], Tensor]) -> Predicted:
    parts = []
    with torch.inference_mode():
        for start in range(0, count, BATCH_SIZE):
            rows = slice(start, min(start + BATCH_SIZE, count))
            outputs = network(batch(rows))
            heads = outputs if isinstance(outputs, tuple) else (outputs,)
            parts.append([head.float().numpy()[: rows.stop - start] for head in heads])
    logits, *rest = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    prediction = probit_from_logits(logits)
    return Predicted(prediction.label, prediction.probit, rest[0] if rest else None)


def _filled(rows: np.ndarray) -> Tensor:
    padding = np.repeat(rows[:1], BATCH_SIZE - len(rows), axis=0)
    return torch.from_numpy(np.concatenate([rows, padding]))


def score_surrogate(
    network: nn.Module, preprocess: Preprocess, references: References, artefact: str, noise: float = 0.0
) -> Scores:
    """Scores of a reference pack. The probit comes from `calibration.statistics.probit`, so it equals that of the exported head.

    artefact: digest of the surrogate's file. noise: standard deviation of the guard noise, 0 for a plain pass.
    """
    drawn = guard_noise(preprocess, len(references), noise, references.split)
    predicted = run_surrogate(network, preprocess, references.frames, drawn)
    execution = pytorch_execution(artefact, noise)
    return references.scores(predicted.label, predicted.probit, predicted.difficulty, execution)
