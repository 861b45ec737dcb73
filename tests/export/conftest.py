"""A tiny trained source with colour camera frames, crop and resize, built without the trainer's command line."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import clopper_pearson_map
from rrise.calibration.tables.references import References
from rrise.export.lowering.precision import PREPROCESS_LAYER
from rrise.export.source import ExportSource
from rrise.trainer.data import load_digits
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.learning.hardware import threads_for
from rrise.trainer.networks import ResNet

SIGMA, BETA, SAMPLES = 0.25, 0.1, 200
SPLITS = {"tuning": 60, "calibration": 150, "verification": 120}


def camera_frames(digits: np.ndarray) -> np.ndarray:
    """Digits 8x8 as BGR camera frames [n, 20, 24, 3]: doubled, off-centre, each colour channel with its own gain."""
    large = digits.repeat(2, axis=1).repeat(2, axis=2).astype(np.float32)
    frames = np.full((len(digits), 20, 24, 3), 30, np.float32)
    frames[:, 2:18, 3:19] = large * np.array([0.3, 0.6, 0.95], np.float32)
    return frames.astype(np.uint8)


def train(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(6):
        for rows in torch.randperm(len(inputs)).split(64):
            noisy = inputs[rows] + SIGMA * torch.randn_like(inputs[rows])
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(noisy), labels[rows]).backward()
            optimiser.step()
    network.eval()


def count(network: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    counts = np.zeros((len(inputs), 10), np.uint32)
    with torch.inference_mode():
        for row, x in enumerate(inputs):
            noisy = x + SIGMA * torch.randn((SAMPLES, *x.shape))
            counts[row] = np.bincount(network(noisy).argmax(1).numpy(), minlength=10)
    return counts


@pytest.fixture(scope="session")
def colour_source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    """Frames of a BGR camera, cropped and resized in the graph; the surrogate is the base classifier itself."""
    torch.manual_seed(0)
    dataset = load_digits()
    frames, labels = camera_frames(dataset.frames), torch.from_numpy(dataset.labels)  # type: ignore[arg-type]
    preprocess = Preprocess((20, 24, 3), "bgr8", crop=(1, 2, 18, 18), size=(10, 9)).eval()
    network = ResNet(3, 10, [12], [1], [0.3, 0.2, 0.1], [0.4, 0.3, 0.2])
    with torch.inference_mode():
        inputs = preprocess(torch.from_numpy(frames)).clone()
    ends = np.cumsum(list(SPLITS.values()))
    with threads_for(0):  # the same weights, whatever number of threads the machine has
        train(network, inputs[ends[-1] :], labels[ends[-1] :])
    packs: dict[str, Any] = {}
    for (split, size), end in zip(SPLITS.items(), ends, strict=True):
        rows = slice(end - size, end)
        packs[split] = References.from_counts(
            frames[rows],
            np.arange(end - size, end),
            dataset.labels[rows],
            count(network, inputs[rows]),
            np.full(size, SAMPLES, np.uint32),
            split=split,
            sigma=SIGMA,
            class_names=dataset.class_names,
            base_digest="b" * 64,
            beta=BETA,
        )
    return ExportSource(
        path=tmp_path_factory.mktemp("colour"),
        module=nn.Sequential(OrderedDict([(PREPROCESS_LAYER, preprocess), ("network", network)])).eval(),
        preprocess=preprocess,
        sigma=SIGMA,
        class_names=dataset.class_names,
        map=clopper_pearson_map(SIGMA, SAMPLES, BETA),
        guarantee=Guarantee.of(error="0.1", confidence="0.9", beta="0.1"),
        training_digests=frozenset(packs["tuning"].digest.tolist()),
        split_digests={split: pack.frames_digest for split, pack in packs.items()},
        base_digest="b" * 64,
        surrogate_digest="5" * 64,
        frame_rate=30.0,
        **packs,
    )


@pytest.fixture(scope="session")
def colour_bundle(colour_source: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three precisions of `colour_source`; copy it before you damage it."""
    from rrise.export.pipeline import export_source

    out = tmp_path_factory.mktemp("colour-bundle") / "bundle"
    return export_source(colour_source, out, ("fp32", "fp16", "int8")).path
