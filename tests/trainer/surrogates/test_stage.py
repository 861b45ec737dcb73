from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rrise.calibration.errors import CheckFailed
from rrise.calibration.tables.scores import Scores
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.feed import seeded
from rrise.trainer.learning.views import fresh_shares
from rrise.trainer.networks import Ensemble, load_network
from rrise.trainer.scores.surrogate_scores import pytorch_execution
from rrise.trainer.surrogates.stage import SurrogateCandidate, check_no_fall, train_surrogate
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
    from rrise.trainer.scores.surrogate_scores import score_surrogate

    made = Workspace.open(workspace)
    pack = made.references("tuning")
    naive = score_surrogate(made.base().module, made.preprocess, pack, "0" * 64)
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
    missing = 100 * len(copy.splits.train)
    with pytest.raises(TrainerError, match=rf"stream 'train': {missing} of its samples are still missing"):
        train_surrogate(copy, again=True)


def test_a_fall_in_agreement_stops_before_calibration(workspace: Path, tmp_path: Path) -> None:
    """A rate that destroys the base classifier's weights, as 0.1 destroyed a pretrained network at 224 pixels."""
    copy = edit(copied(workspace, tmp_path), 'method = "auto"', 'method = "fresh"')
    text = (copy.path / "rrise.toml").read_text()
    before, after = text.split("[surrogate]")
    after = after.replace("learning_rate = 0.0", "learning_rate = 30.0", 1).replace(
        "epochs = 6", "epochs = 1", 1
    )
    (copy.path / "rrise.toml").write_text(before + "[surrogate]" + after)
    copy, kept = Workspace.open(copy.path), copy.surrogate_path.read_bytes()
    with pytest.raises(
        CheckFailed, match=r"agreement on the tuning split fell from .*calibration split was not touched"
    ):
        train_surrogate(copy, again=True)
    assert copy.surrogate_path.read_bytes() == kept


def test_the_unchanged_base_classifier_is_candidate_zero(workspace: Path) -> None:
    from rrise.calibration.tables.evaluation import label_agreement
    from rrise.trainer.scores.surrogate_scores import score_surrogate

    made = Workspace.open(workspace)
    zero = train_surrogate(made).candidates[0]
    table = score_surrogate(made.base().module, made.preprocess, made.references("tuning"), "0" * 64)
    assert zero.method == "unchanged" and zero.passes == zero.trained == 0
    assert zero.agreement == label_agreement(table)


def candidate(method: str, agreement: float) -> SurrogateCandidate:
    return SurrogateCandidate(method, 0.0, agreement, 1.0, 0.1, 0, 0)


def test_a_small_fall_or_one_bad_way_of_two_is_no_reason_to_stop() -> None:
    check_no_fall([candidate("unchanged", 0.90), candidate("fresh", 0.86)])
    check_no_fall([candidate("unchanged", 0.90), candidate("stored", 0.20), candidate("fresh", 0.95)])
    check_no_fall([candidate("fresh", 0.1)])
    with pytest.raises(CheckFailed, match=r"fell from 0.815 .* to 0.150"):
        check_no_fall([candidate("unchanged", 0.815), candidate("fresh", 0.150)])


def test_surrogate_of_another_shape_members_and_a_teacher(workspace: Path, tmp_path: Path) -> None:
    """A surrogate of two smaller networks from scratch on stored counts, taught by the one before it as well."""
    copy = copied(workspace, tmp_path)
    (copy.path / "teacher.safetensors").write_bytes(copy.surrogate_path.read_bytes())
    text = (copy.path / "rrise.toml").read_text()
    before, after = text.split("[surrogate]")
    for old, new in (
        ('method = "auto"', 'method = "stored"'),
        ("widths = []", "widths = [4, 16]"),
        ("blocks = []", "blocks = [0, 1]"),
        ("members = 1", "members = 2"),
        ('teacher = ""', 'teacher = "teacher.safetensors"'),
        ("stored_views = false", "stored_views = true"),
        ("stored_samples = 0", "stored_samples = 50"),
        ('loss = "ce"', 'loss = "both"'),
        ("stored_epochs = 3", "stored_epochs = 25"),
    ):
        assert old in after
        after = after.replace(old, new, 1)
    (copy.path / "rrise.toml").write_text(before + "[surrogate]" + after)
    copy = Workspace.open(copy.path)
    result = train_surrogate(copy, again=True)
    network = copy.surrogate()
    assert [item.method for item in result.candidates] == ["stored"], "another shape has no candidate zero"
    assert isinstance(network.module, Ensemble) and network.spec["members"][0]["widths"] == [4, 16]
    assert result.chosen.trained == 2 * 25 * (360 // 64 * 64) and result.chosen.agreement > 0.3
