from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rrise.trainer.networks import DIFFICULTY_FLOOR, ResNet, WithDifficulty, build_network, load_network
from rrise.trainer.scores.calibrate import calibrate_surrogate
from rrise.trainer.scores.surrogate_scores import run_surrogate
from rrise.trainer.surrogates.difficulty import LEVEL, _fit, learn_difficulty
from rrise.trainer.surrogates.stage import train_surrogate
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrise.trainer.surrogates.difficulty.SAMPLES", 40)


def test_learns_which_frames_are_hard() -> None:
    """Residuals whose spread grows with one feature: the difficulty follows their high quantile."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand((4000, 3), generator=generator)
    spread = 0.2 + features[:, 0]
    residual = 0.1 * spread * torch.randn(4000, generator=generator)
    torch.manual_seed(0)
    module = WithDifficulty(ResNet(1, 2, [3], [1], [0.0], [1.0]), 3)
    _fit(module, features, residual)
    learned = module.difficulty(features).detach()
    assert float(learned.mean()) == pytest.approx(1.0, abs=1e-5)
    assert np.corrcoef(learned, spread)[0, 1] > 0.95
    # Dividing by it makes the rare large residuals equally rare among easy and hard frames.
    relative = (residual / learned).numpy()
    limit = np.quantile(relative, LEVEL)
    easy, hard = (relative[spread < 0.7] > limit).mean(), (relative[spread > 0.7] > limit).mean()
    assert 0.015 < easy < 0.05 and 0.015 < hard < 0.05


def test_head_leaves_the_logits_alone_and_stays_positive(workspace: Path) -> None:
    made = Workspace.open(workspace)
    base, surrogate = made.base(), made.surrogate()
    learned = learn_difficulty(made, base, surrogate.module, surrogate.spec, 0.0)
    x = made.inputs("test")
    with torch.inference_mode():
        logits, difficulty = learned.module(x)
        assert torch.equal(logits, surrogate.module(x))
    assert difficulty.shape == (40,) and (difficulty > 0).all()
    assert (difficulty >= DIFFICULTY_FLOOR * learned.module.scale).all()
    assert learned.passes == 2 * len(made.splits.train) * 40


def test_any_network_can_have_the_head(workspace: Path) -> None:
    made = Workspace.open(workspace)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    learned = learn_difficulty(made, made.base(), plain, {"kind": "factory", "factory": "a:b"}, 0.0)
    assert learned.spec["num_features"] == 10
    assert (learned.module(made.inputs("test"))[1] > 0).all()


def test_through_file_scores_and_calibration(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "difficulty = false", "difficulty = true")
    copy = edit(copy, 'map = "auto"', 'map = "clopper-pearson"')
    train_surrogate(copy, again=True)
    network = load_network(copy.surrogate_path)
    assert network.has_difficulty and isinstance(build_network(network.spec), WithDifficulty)
    predicted = run_surrogate(network.module, copy.preprocess, copy.frames("test"))
    assert predicted.difficulty is not None and predicted.difficulty.shape == (40,)
    record = calibrate_surrogate(copy).record
    assert record.head.difficulty
    radius = record.head.radius(predicted.probit, predicted.label, predicted.difficulty)
    raw = record.head.raw_radius(predicted.probit)
    expected = np.maximum(raw - np.float32(record.head.offset[0]) * predicted.difficulty, 0)
    np.testing.assert_allclose(radius, expected, atol=1e-7)
    assert (
        copy.cost().to_json()["stages"]["surrogate-difficulty"]["passes"] == 2 * len(copy.splits.train) * 40
    )
