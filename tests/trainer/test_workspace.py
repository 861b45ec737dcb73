from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.config import Config, SmoothingConfig
from rrise.trainer.workspace import Workspace
from tests.conftest import save_digits, tiny_config
from tests.trainer.helpers import copied, edit


def test_create_twice_opens_and_other_settings_are_refused(tmp_path: Path) -> None:
    first = Workspace.create(tmp_path / "w")
    assert Workspace.create(tmp_path / "w").config == first.config == Config()
    with pytest.raises(TrainerError, match="exists with other settings"):
        Workspace.create(tmp_path / "w", replace(Config(), smoothing=SmoothingConfig(0.5)))


def test_a_file_is_no_folder_for_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("x")
    with pytest.raises(TrainerError, match="w: got a file, expected a new folder"):
        Workspace.create(tmp_path / "w")
    assert (tmp_path / "w").read_text() == "x"


def test_open_needs_a_workspace(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="rrise-train init"):
        Workspace.open(tmp_path)


def test_splits_of_the_digits_demo(tmp_path: Path) -> None:
    made = Workspace.create(tmp_path)
    sizes = [
        len(made.splits.indices(name)) for name in ("train", "tuning", "calibration", "verification", "test")
    ]
    assert sizes[1:] == [180, 300, 215, 200] and sum(sizes) <= 1797
    assert made.inputs("test").shape == (200, 1, 8, 8)
    resolved = json.loads((tmp_path / "rrise.resolved.json").read_text())
    assert resolved["preprocessing"]["encoding"] == "mono8"
    assert resolved["splits"]["test"]["digest"] == made.splits.digest("test")


def test_splits_are_disjoint_by_content(workspace: Path) -> None:
    made = Workspace.open(workspace)
    names = ("train", "tuning", "calibration", "verification", "test")
    digests = [set(frame_digests(made.frames(name)).tolist()) for name in names]
    assert sum(map(len, digests)) == len(set().union(*digests))


def test_changed_data_are_refused(tmp_path: Path) -> None:
    save_digits(tmp_path / "digits.npz", 600)
    made = Workspace.create(tmp_path / "w", tiny_config(tmp_path / "digits.npz"))
    assert len(made.splits.train)
    save_digits(tmp_path / "digits.npz", 601)
    with pytest.raises(TrainerError, match="made from other data"):
        _ = Workspace.open(made.path).splits


def test_changed_clips_are_refused(tmp_path: Path) -> None:
    """Without this, frames that turn out to be bursts would still be counted as independent draws."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "images": rng.integers(0, 256, (600, 8, 8), np.uint8),
        "labels": np.arange(600) % 2,
        "class_names": np.array(["a", "b"]),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    made = Workspace.create(tmp_path / "w", tiny_config(tmp_path / "x.npz"))
    assert len(np.unique(made.splits.clips)) == 600
    np.savez(tmp_path / "x.npz", clips=np.arange(600) // 2, **arrays)
    with pytest.raises(TrainerError, match="made from other data"):
        _ = Workspace.open(made.path).splits


def test_changed_split_sizes_are_refused(workspace: Path, tmp_path: Path) -> None:
    changed = edit(copied(workspace, tmp_path), "test = 40", "test = 41")
    with pytest.raises(TrainerError, match=r"made from other \[splits\]"):
        _ = changed.splits


def test_base_of_another_sigma_is_refused(workspace: Path, tmp_path: Path) -> None:
    changed = edit(copied(workspace, tmp_path), "sigma = 0.25", "sigma = 0.5")
    with pytest.raises(
        TrainerError, match=r"sigma: got 0.25, expected 0.5; run `rrise-train base .* --again`"
    ):
        changed.base()


def test_references_of_another_sigma_or_base_are_refused(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    changed = edit(copy, "sigma = 0.25", "sigma = 0.5")
    with pytest.raises(TrainerError, match=r"sigma: got 0.25, expected 0.5"):
        changed.references("calibration")
    restored = edit(changed, "sigma = 0.5", "sigma = 0.25")
    (copy.path / "references" / "calibration.npz").write_bytes(
        (copy.path / "references" / "tuning.npz").read_bytes()
    )
    with pytest.raises(TrainerError, match="split: got tuning, expected calibration"):
        restored.references("calibration")
    (copy.path / "references" / "tuning.npz").unlink()
    with pytest.raises(TrainerError, match="run `rrise-train targets"):
        restored.references("tuning")


def test_surrogate_of_another_base_is_refused(workspace: Path, tmp_path: Path) -> None:
    from rrise.trainer.base_classifier.stage import train_base
    from rrise.trainer.networks import load_network, save_network

    copy = copied(workspace, tmp_path)
    base = load_network(copy.base_path)
    with torch.no_grad():
        base.module.head.bias[0] += 0.1  # type: ignore[index, operator, union-attr]
    save_network(copy.base_path, base.module, base.spec, base.metadata)
    with pytest.raises(TrainerError, match=r"base.json: belongs to weights"):
        copy.surrogate()
    train_base(copy)
    with pytest.raises(TrainerError, match=r"trained for base classifier .* --again"):
        copy.surrogate()


def test_cost_is_kept_per_stage(workspace: Path) -> None:
    made = Workspace.open(workspace)
    cost = made.cost().to_json()["stages"]
    assert cost["targets-calibration"]["passes"] == 100 * 200
    assert cost["targets-audit"]["passes"] == 40 * 400
    # 360 training frames in 5 whole batches of 64, 20 epochs, three passes for a training step
    assert cost["base"]["total"] == 3 * 20 * 5 * 64
    assert cost["surrogate-fresh"]["passes"] == 4 * cost["surrogate-fresh"]["trained"] == 4 * 6 * 5 * 64


def test_colour_order_must_be_an_encoding_that_fits(tmp_path: Path) -> None:
    made = edit(Workspace.create(tmp_path), 'encoding = "auto"', 'encoding = "bgr8"')
    with pytest.raises(TrainerError, match=r"set \[preprocess\] encoding"):
        _ = made.preprocess


def test_inputs_are_the_preprocessed_frames(workspace: Path) -> None:
    made = Workspace.open(workspace)
    expected = made.frames("test")[..., 0].astype(np.float32) / 255
    np.testing.assert_allclose(made.inputs("test")[:, 0].numpy(), expected, atol=6e-8)
