"""The PyTorch execution of the surrogate: runs it on a split and writes the scores table that calibration reads."""

from __future__ import annotations

import platform

import numpy as np
import torch
from torch import nn

from calibration.execution import Execution
from calibration.probit import Prediction, probit_from_logits
from calibration.references import References
from calibration.scores import Scores
from trainer.preprocess import Preprocess

BATCH_SIZE = 64


def pytorch_execution(artefact: str) -> Execution:
    """The execution that `predict` is: PyTorch on this processor, float32, fixed batches."""
    return Execution(
        artefact=artefact,
        runtime="pytorch",
        version=torch.__version__,
        provider="cpu",
        architecture=platform.machine(),
        options=(("dtype", "float32"),),
        batch_size=BATCH_SIZE,
    )


def predict(network: nn.Module, preprocess: Preprocess, frames: np.ndarray) -> Prediction:
    """Label and probit of the surrogate for frames uint8 [n, H, W, C].

    Every call of the network has exactly BATCH_SIZE frames (the last is filled up with its first frame), because
    rounding depends on the batch size.
    """
    parts = []
    with torch.inference_mode():
        for start in range(0, len(frames), BATCH_SIZE):
            part = frames[start : start + BATCH_SIZE]
            padding = np.repeat(part[:1], BATCH_SIZE - len(part), axis=0)
            batch = torch.from_numpy(np.concatenate([part, padding]))
            parts.append(network(preprocess(batch)).float().numpy()[: len(part)])
    return probit_from_logits(np.concatenate(parts))


def score(network: nn.Module, preprocess: Preprocess, references: References, execution: Execution) -> Scores:
    """Scores of a reference pack. The probit comes from `calibration.probit`, so it equals that of the exported head."""
    prediction = predict(network, preprocess, references.frames)
    return Scores(
        digest=references.digest,
        clip=references.clip,
        target=references.target,
        label=prediction.label,
        probit=prediction.probit,
        counts=references.counts,
        num_samples=references.num_samples,
        split=references.split,
        sigma=references.sigma,
        class_names=references.class_names,
        base_digest=references.base_digest,
        execution=execution,
    )
