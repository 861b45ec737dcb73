"""Synthetic worlds with known class probabilities, from which scores tables are drawn."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from rrise.calibration import Execution, Scores

SIGMA = 0.25
EXECUTION = Execution("a" * 64, "onnxruntime", "1.30", "cpu", "x86_64")


def digests(count: int, start: int = 0) -> np.ndarray:
    """Distinct made-up frame digests, S64 [count]."""
    return np.array([f"{start + index:064x}".encode() for index in range(count)], dtype="S64")


def draw_scores(
    seed: int,
    num_frames: int = 200,
    num_samples: int = 500,
    *,
    noise: float = 0.3,
    split: str = "calibration",
    start: int = 0,
    num_classes: int = 3,
    difficulty: bool = False,
) -> Scores:
    """Frames whose top class has p = Phi(probit), probit ~ N(1, 1); the surrogate sees it with Gaussian probit noise."""
    rng = np.random.default_rng(seed)
    true = rng.normal(1.0, 1.0, num_frames)
    label = rng.integers(0, num_classes, num_frames)
    counts = np.zeros((num_frames, num_classes), np.uint32)
    hits = rng.binomial(num_samples, norm.cdf(true))
    counts[np.arange(num_frames), (label + 1) % num_classes] = num_samples - hits
    counts[np.arange(num_frames), label] = hits
    scale = rng.uniform(0.2, 2.0, num_frames) if difficulty else np.ones(num_frames)
    return Scores(
        digest=digests(num_frames, start),
        clip=np.arange(num_frames) + start,
        target=label.astype(np.int64),
        label=label.astype(np.int64),
        probit=(true + noise * scale * rng.normal(size=num_frames)).astype(np.float32),
        counts=counts,
        num_samples=np.full(num_frames, num_samples, np.uint32),
        split=split,
        sigma=SIGMA,
        class_names=tuple(f"class {index}" for index in range(num_classes)),
        base_digest="b" * 64,
        execution=EXECUTION,
        difficulty=scale.astype(np.float32) if difficulty else None,
    )
