"""Running a surrogate on a reference pack: the scores tables that everything after is computed from."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rrise.calibration.promise.guarded import NoiseSource
from rrise.calibration.statistics.probit import probit_from_logits
from rrise.calibration.storage.execution import Execution
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.trainer.data.preprocess import Preprocess

BATCH_SIZE = 64
TIMED_PASSES = 30
FIRST_CLIP = {"tuning": 0, "calibration": 1_000_000, "test": 2_000_000}


@dataclass(frozen=True)
class Predicted:
    """A surrogate on n frames: label int64 [n], probit float32 [n], difficulty float32 [n] or None."""

    label: np.ndarray
    probit: np.ndarray
    difficulty: np.ndarray | None


def execution(artefact: str, device: torch.device) -> Execution:
    """What `predict` is: PyTorch in float32 on this device, in fixed batches."""
    cuda = device.type == "cuda"
    return Execution(
        artefact=artefact,
        runtime="pytorch",
        version=torch.__version__,
        provider=device.type,
        architecture=torch.cuda.get_device_name(device) if cuda else platform.machine(),
        options=(("dtype", "float32"), ("tf32", str(cuda and torch.backends.cudnn.allow_tf32))),
        batch_size=BATCH_SIZE,
    )


def predict(
    network: nn.Module,
    preprocess: Preprocess,
    frames: np.ndarray,
    device: torch.device,
    noise: NoiseSource | None = None,
) -> Predicted:
    """Label and probit for frames uint8 [n, H, W, C]; every call has exactly BATCH_SIZE frames.

    noise: guarded tier: one fresh draw for each frame, added in pixel levels, where the sum is exact.
    """
    parts = []
    network, preprocess = network.to(device).eval(), preprocess.to(device)
    with torch.inference_mode():
        for start in range(0, len(frames), BATCH_SIZE):
            part = frames[start : start + BATCH_SIZE]
            padding = np.repeat(part[:1], BATCH_SIZE - len(part), axis=0)
            levels = preprocess.levels(torch.from_numpy(np.concatenate([part, padding])).to(device))
            if noise is not None:
                levels = levels + torch.from_numpy(noise.draw(levels.shape)).to(device)
            outputs = network(levels * (1.0 / 255.0))
            heads = outputs if isinstance(outputs, tuple) else (outputs,)
            parts.append([head.float().cpu().numpy()[: len(part)] for head in heads])
    logits, *rest = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    found = probit_from_logits(logits)
    return Predicted(found.label, found.probit, rest[0] if rest else None)


def score(prediction: Predicted, references: References, ran: Execution) -> Scores:
    """The scores table of a prediction on the frames of a reference pack."""
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
        execution=ran,
        difficulty=prediction.difficulty,
    )


def pack(
    frames: np.ndarray,
    labels: np.ndarray,
    counts: np.ndarray,
    split: str,
    *,
    sigma: float,
    class_names: tuple[str, ...],
    base_digest: str,
    beta: float,
) -> References:
    """A reference pack of single frames, each its own clip, under numbers that no other split has."""
    first = FIRST_CLIP[split]
    return References.from_counts(
        frames,
        np.arange(first, first + len(frames), dtype=np.int64),
        labels,
        counts.astype(np.uint32),
        counts.sum(axis=1, dtype=np.int64).astype(np.uint32),
        split=split,
        sigma=sigma,
        class_names=class_names,
        base_digest=base_digest,
        beta=beta,
    )


def milliseconds_per_frame(network: nn.Module, x: torch.Tensor) -> float:
    """Median time of one pass over x, divided by its frames, in milliseconds."""
    times = []
    with torch.inference_mode():
        for _ in range(TIMED_PASSES):
            start = time.perf_counter()
            outputs = network(x)
            (outputs[0] if isinstance(outputs, tuple) else outputs).cpu()  # waits for a GPU
            times.append(time.perf_counter() - start)
    return 1000.0 * float(np.median(times)) / len(x)
