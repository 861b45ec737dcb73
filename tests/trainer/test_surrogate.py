from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rrise.calibration.tables.scores import Scores
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.feed import seeded
from rrise.trainer.learning.views import fresh_shares
from rrise.trainer.networks import load_network
from rrise.trainer.scoring import pytorch_execution
from rrise.trainer.surrogate import train_surrogate
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit


def threshold(x: torch.Tensor) -> torch.Tensor:
    """Class 1 where the single pixel exceeds 1/2: its smoothed probabilities are known exactly."""
    return (x.flatten(1)[:, 0] > 0.5).long()


def test_fresh_shares_are_unbiased() -> None:
    from scipy.stats import norm

    views = torch.tensor([0.2, 0.5, 0.6]).view(3, 1, 1, 1)
    shares_of = fresh_shares(threshold, 2, 0.25, 2, seeded(0))
    draws = torch.stack([shares_of(views) for _ in range(4000)])
    assert set(draws.unique().tolist()) == {0.0, 0.5, 1.0}
    expected = norm.cdf((views.flatten().numpy() - 0.5) / 0.25)
    # 8,000 evaluations: standard deviation below 0.0056; six of them
    np.testing.assert_allclose(draws.mean(0)[:, 1], expected, atol=0.034)


def test_keeps_the_better_of_both_methods(workspace: Path) -> None:
    made = Workspace.open(workspace)
    result = train_surrogate(made)
    assert result.kept and {item.method for item in result.candidates} == {"unchanged", "stored", "fresh"}
    best = max(result.candidates, key=lambda item: item.worth)
    assert result.chosen == best and best.worth > 0
    table = Scores.load(made.scores_path(pytorch_execution(result.digest).name, "tuning"))
    agreement = np.mean(table.label == table.counts.argmax(axis=1))
    assert best.agreement == pytest.approx(agreement)


def test_learns_more_than_the_clean_base_classifier_knows(workspace: Path) -> None:
    """The base classifier's own softmax on clean frames is no estimate of the smoothed probabilities."""
    from rrise.calibration.tables.evaluation import probit_rmse
    from rrise.trainer.scoring import score

    made = Workspace.open(workspace)
    pack = made.references("tuning")
    naive = score(made.base().module, made.preprocess, pack, "0" * 64)
    result = train_surrogate(made)
    assert min(item.probit_rmse for item in result.candidates) < probit_rmse(naive)


def test_again_is_reproducible(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    assert (
        train_surrogate(copy, again=True).digest
        == load_network(Workspace.open(workspace).surrogate_path).digest
    )


def test_other_settings_need_again(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), 'method = "auto"', 'method = "stored"')
    before = copy.surrogate_path.read_bytes()
    with pytest.raises(TrainerError, match=r"settings: got .*rrise-train surrogate .* --again"):
        train_surrogate(copy)
    assert copy.surrogate_path.read_bytes() == before
    result = train_surrogate(copy, again=True)
    assert result.method == "stored" and len(result.candidates) == 2


def test_stored_method_needs_finished_targets(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "train = 100", "train = 200")
    with pytest.raises(TrainerError, match=r"stream 'train': 36000 of its samples are still missing"):
        train_surrogate(copy, again=True)
