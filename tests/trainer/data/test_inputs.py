from __future__ import annotations

import numpy as np
import pytest
import torch

from rrise.trainer.data.inputs import Inputs
from rrise.trainer.data.preprocess import Preprocess


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2000, 6, 4, 3), dtype=np.uint8)


def test_each_batch_is_the_preprocessing_of_its_frames(frames: np.ndarray) -> None:
    preprocess = Preprocess((6, 4, 3), "rgb8", size=(3, 4))
    inputs = Inputs(frames, preprocess)
    index = torch.tensor([5, 1999, 5])
    assert len(inputs) == 2000 and inputs.shape == (3, 3, 4)
    assert torch.equal(inputs[index], preprocess(torch.from_numpy(frames[[5, 1999, 5]])))


def test_statistics_are_those_of_the_pixels(frames: np.ndarray) -> None:
    frames = frames // np.array([1, 2, 4], np.uint8)
    mean, std = Inputs(frames, Preprocess((6, 4, 3), "rgb8")).statistics()
    np.testing.assert_allclose(mean, (frames / 255).mean(axis=(0, 1, 2)), atol=0.01)
    np.testing.assert_allclose(std, (frames / 255).std(axis=(0, 1, 2)), atol=0.01)
