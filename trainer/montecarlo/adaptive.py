"""References that stop early where more samples would not help, without losing their confidence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.statistics.sequential import Stages, worth_continuing
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.classifier import BlackBox
from rrise.trainer.montecarlo.sampler import sample_counts
from rrise.trainer.montecarlo.storage.store import CountStore

TOLERANCE = 0.05


def sample_in_stages(
    classifier: nn.Module | BlackBox,
    preprocess: nn.Module,
    frames: np.ndarray,
    store: CountStore,
    stages: Stages,
    *,
    tolerance: float = TOLERANCE,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Sample every frame to the first stage, and on to the next while that is worth it; returns N, int64 [n].

    A frame goes on while one sampling error of its top radius exceeds `tolerance` sigma (`worth_continuing`). Killed
    and started again it comes to the same counts, because the decision at a stage depends on the counts there alone.

    **Guarantee**: `staged_radius` of the counts is a lower bound on every true radius (cut at 0) with probability at
    least 1 - beta per frame and class, although N was chosen after looking (MATHEMATICS, condition (c)).
    """
    for previous, size in zip((0, *stages.sizes), stages.sizes, strict=False):
        wanted = store.samples().astype(np.int64)
        going_on = wanted == previous
        if previous:
            going_on &= worth_continuing(store.counts(), store.identity.sigma, tolerance)
        wanted = np.where(going_on, size, wanted)
        # A frame that a killed run left between two stages was already chosen to go on.
        between = (wanted > previous) & (wanted < size)
        wanted = np.where(between, size, wanted)
        sample_counts(
            classifier,
            preprocess,
            frames,
            store,
            wanted,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    return store.samples().astype(np.int64)


def staged_radius(counts: np.ndarray, sigma: float, stages: Stages) -> np.ndarray:
    """Reference radius float32 [n, K] of counts uint32 [n, K] that stopped at stages: at beta split over the stages."""
    samples = counts.sum(axis=1, dtype=np.uint64).astype(np.uint32)
    outside = sorted(set(samples.tolist()) - set(stages.sizes))
    if outside:
        raise TrainerError(
            f"staged references: got frames with {outside[0]} samples, expected one of the stages {stages.sizes}; a "
            "bound at another N is not covered. Finish the sampling, or name the stages that were used"
        )
    return reference_radius(counts, samples, sigma, float(stages.level))
