from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rrise.trainer.base_classifier import training as base_training
from rrise.trainer.base_classifier.stage import train_base
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning import Interrupted
from rrise.trainer.networks import Ensemble, save_network
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit


def test_learns_under_noise_and_is_kept(workspace: Path) -> None:
    made = Workspace.open(workspace)
    digest = made.base().digest
    result = train_base(made)
    assert result.kept and result.digest == digest
    assert result.noisy_accuracy > 0.6  # chance is 0.1


def test_again_gives_the_same_network(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "epochs = 20", "epochs = 1")
    with pytest.raises(
        TrainerError, match=r"settings: got {'epochs': 20}, expected {'epochs': 1} from rrise.toml.*--again"
    ):
        train_base(copy)
    first = train_base(copy, again=True)
    second = train_base(copy, again=True)
    assert not second.kept and first.digest == second.digest


def test_training_does_not_touch_the_global_random_state(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "epochs = 20", "epochs = 1")
    before = torch.random.get_rng_state()
    train_base(copy, again=True)
    assert torch.equal(before, torch.random.get_rng_state())


def test_diverging_training_is_refused_and_nothing_is_lost(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "learning_rate = 0.0", "learning_rate = 1e+30")
    before = copy.base_path.read_bytes()
    with pytest.raises(TrainerError, match="lower the learning_rate"):
        train_base(copy, again=True)
    assert copy.base_path.read_bytes() == before


def test_too_many_stages_for_the_image(workspace: Path, tmp_path: Path) -> None:
    old, new = (
        "widths = [8, 16, 32]\nblocks = [0, 1, 1]",
        "widths = [4, 4, 4, 4, 4]\nblocks = [1, 1, 1, 1, 1]",
    )
    copy = edit(copied(workspace, tmp_path), old, new)
    with pytest.raises(TrainerError, match="use fewer stages"):
        train_base(copy, again=True)


OWN = """
from torch import nn

def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def eleven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 11))
"""


@pytest.fixture
def own(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose base classifier is the user's own factory, with weights."""
    (tmp_path / "own_base.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = copied(workspace, tmp_path)
    copy.base_path.unlink()
    generator = torch.Generator().manual_seed(0)
    weights = {"1.weight": torch.randn(10, 64, generator=generator), "1.bias": torch.zeros(10)}
    save_file(weights, copy.path / "own.safetensors")
    return edit(copy, 'factory = ""\nweights = ""', 'factory = "own_base:mlp"\nweights = "own.safetensors"')


def test_own_classifier_is_taken_unchanged(own: Workspace) -> None:
    with pytest.raises(TrainerError, match="--allow-code"):
        train_base(own)
    assert not own.base_path.exists()
    result = train_base(own, allow_code=True)
    network = own.base(allow_code=True)
    x = own.inputs("test")
    weights = np.asarray(network.module[1].weight.detach())  # type: ignore[index]
    np.testing.assert_allclose(
        network.module(x).detach().numpy(), x.flatten(1).numpy() @ weights.T, atol=1e-5
    )
    assert result.digest == network.digest


def test_own_classifier_that_changed_is_not_silently_the_old_one(own: Workspace) -> None:
    train_base(own, allow_code=True)
    path = own.path / "own.safetensors"
    first = path.read_bytes()
    save_file({"1.weight": torch.ones(10, 64), "1.bias": torch.zeros(10)}, path)
    with pytest.raises(TrainerError, match=r"own_classifier_digest: got .* --again"):
        train_base(own, allow_code=True)
    path.write_bytes(first)
    assert train_base(own, allow_code=True).kept
    path.unlink()
    assert train_base(own, allow_code=True).kept, "the workspace has its own copy"


def test_own_classifier_with_nan_weights(own: Workspace) -> None:
    save_file(
        {"1.weight": torch.full((10, 64), float("nan")), "1.bias": torch.zeros(10)},
        own.path / "own.safetensors",
    )
    with pytest.raises(TrainerError, match=r"own.safetensors: weight '1.weight' holds 640 NaN"):
        train_base(own, allow_code=True)


def test_own_classifier_with_another_number_of_classes(own: Workspace) -> None:
    save_file({"1.weight": torch.zeros(11, 64), "1.bias": torch.zeros(11)}, own.path / "own.safetensors")
    own = edit(own, "own_base:mlp", "own_base:eleven")
    with pytest.raises(TrainerError, match=r"returned \[4, 11\], expected logits of shape \[4, 10\]"):
        train_base(own, allow_code=True)


def test_own_classifier_without_its_weights(own: Workspace) -> None:
    (own.path / "own.safetensors").unlink()
    with pytest.raises(TrainerError, match=r"own.safetensors: no such file"):
        train_base(own, allow_code=True)


def test_interrupted_training_continues_and_ends_with_the_same_file(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "epochs = 20", "epochs = 2")
    straight = train_base(copy, again=True).digest
    with pytest.raises(Interrupted, match=r"base classifier .*everything is saved"):
        train_base(copy, again=True, minutes=0.0)
    assert (copy.path / "checkpoints" / "base.safetensors").exists()
    assert train_base(copy, again=True).digest == straight
    assert not (copy.path / "checkpoints" / "base.safetensors").exists()
    assert (copy.path / "log" / "base.jsonl").read_text().count("noisy_accuracy") >= 1


def test_recipes_are_tried_and_the_better_on_the_tuning_split_is_kept(
    workspace: Path, tmp_path: Path
) -> None:
    copy = edit(copied(workspace, tmp_path), 'recipe = "gaussian"', 'recipe = "auto"')
    copy = edit(edit(copy, "epochs = 20", "epochs = 4"), "strengths = [10.0]", "strengths = [1.0, 5.0]")
    result = train_base(copy, again=True)
    assert [item.recipe for item in result.candidates] == ["gaussian", "consistency-1", "consistency-5"]
    best = max(result.candidates, key=lambda item: item.certified)
    assert result.recipe == best.recipe and 0 < best.certified < 1
    assert not list((copy.path / "checkpoints").glob("*")), "what was kept on the way is removed"
    again = train_base(copy)
    assert again.kept and again.candidates == result.candidates


def test_finished_recipes_are_not_trained_again_after_an_interruption(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = edit(copied(workspace, tmp_path), 'recipe = "gaussian"', 'recipe = "auto"')
    copy = edit(copy, "epochs = 20", "epochs = 1")
    straight = train_base(copy, again=True).digest
    trained: list[str] = []
    whole = base_training.train_network  # type: ignore[attr-defined]

    def fit(*args: Any, stage: str, **options: Any) -> Any:
        trained.append(stage)
        if stage.startswith("base-consistency") and len(trained) == 2:
            raise Interrupted("pulled the plug")
        return whole(*args, stage=stage, **options)

    monkeypatch.setattr(base_training, "train_network", fit)
    with pytest.raises(Interrupted):
        train_base(copy, again=True)
    assert train_base(copy, again=True).digest == straight
    assert trained == ["base-gaussian-0", "base-consistency-10-0", "base-consistency-10-0"]


def test_members_are_averaged_and_their_surrogate_is_one_network(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "members = 1", "members = 2")
    copy = edit(copy, "epochs = 20", "epochs = 2")
    train_base(copy, again=True)
    module = copy.base().module
    assert isinstance(module, Ensemble) and len(module.members) == 2
    x = copy.inputs("test")
    parts = [member(x).log_softmax(1) for member in module.members]
    torch.testing.assert_close(module(x), (parts[0] + parts[1]) / 2)
    assert not torch.equal(parts[0], parts[1])


def test_settings_that_are_newer_than_the_file_had_their_defaults(workspace: Path, tmp_path: Path) -> None:
    """A base classifier made before a key of [base] existed is kept, and refused where that key asks for another one."""
    copy = copied(workspace, tmp_path)
    network = copy.base()
    metadata = dict(network.metadata)
    metadata["settings"] = {
        k: v for k, v in metadata["settings"].items() if k not in ("ema", "members", "recipe")
    }
    save_network(copy.base_path, network.module, network.spec, metadata)
    assert train_base(copy).kept
    with pytest.raises(TrainerError, match=r"got {'ema': 0.0}, expected {'ema': 0.9}"):
        train_base(edit(copy, "ema = 0.0", "ema = 0.9"))


def test_own_classifier_is_fine_tuned_under_noise(own: Workspace) -> None:
    own = edit(edit(own, 'train = "auto"', 'train = "fine-tune"'), "epochs = 20", "epochs = 10")
    own = edit(own, "learning_rate = 0.0", "learning_rate = 0.1")
    result = train_base(own, allow_code=True)
    assert result.recipe == "gaussian"
    plain = edit(own, 'train = "fine-tune"', 'train = "none"')
    assert result.noisy_accuracy > train_base(plain, allow_code=True, again=True).noisy_accuracy + 0.1
