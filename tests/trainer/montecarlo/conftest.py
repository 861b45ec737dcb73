"""Small networks and frames for the Monte Carlo tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.montecarlo import CountStore


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (70, 4, 4, 1), dtype=np.uint8)


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    return Preprocess((4, 4, 1), "mono8")


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """A convolution with batch normalisation and a linear head, 3 classes, weights of a fixed seed."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )
    network[1].running_mean.uniform_(-0.5, 0.5)  # type: ignore[operator]
    network[1].running_var.uniform_(0.5, 2.0)  # type: ignore[operator]
    return network.eval()


@pytest.fixture
def make_store(tmp_path: Path, frames: np.ndarray):
    """A function that makes a store for `frames`, with some of its identity changed."""

    def make(path: Path | None = None, **changes: Any) -> CountStore:
        arguments: dict[str, Any] = {
            "stream": "train", "digests": frame_digests(frames), "num_classes": 3, "sigma": 0.5, "seed": 11,
            "base_digest": "b" * 64, "sample_block": 10,
        }  # fmt: skip
        return CountStore.open(path or tmp_path / "targets.zarr", **{**arguments, **changes})

    return make
