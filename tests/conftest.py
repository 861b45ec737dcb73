"""Tiny artefacts that all tests share; copy before you damage them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from rrise.trainer.settings.config import Config

NUM_FRAMES = 600


def tiny_config(source: Path) -> Config:
    """Settings of the shared workspace: seconds on one thread, yet accurate enough to issue certificates."""
    from rrise.trainer.settings.config import parse_config

    return parse_config(
        {
            "data": {"source": str(source)},
            "splits": {"tuning": 40, "calibration": 100, "verification": 60, "test": 40},
            "base": {"epochs": 20},
            "targets": {
                "engine": "onnxruntime",
                "train": 100,
                "tuning": 200,
                "calibration": 200,
                "verification": 200,
                "certify": [100, 200],
                "audit": 400,
            },
            "surrogate": {"epochs": 6, "stored_epochs": 3},
        }
    )


def save_digits(path: Path, count: int) -> None:
    """Write the first `count` digits as the .npz that `load_dataset` reads."""
    from rrise.trainer.data import load_digits

    digits = load_digits()
    np.savez(
        path,
        images=digits.frames[:count],
        labels=digits.labels[:count],
        class_names=np.array(digits.class_names),
    )


@pytest.fixture(autouse=True)
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summaries are not broken for the width that the shell, or a test before, has named."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny finished workspace: base, targets, surrogate, references, scores, certify table."""
    from rrise import trainer

    root = tmp_path_factory.mktemp("shared")
    save_digits(root / "digits.npz", NUM_FRAMES)
    made = trainer.Workspace.create(root / "workspace", tiny_config(root / "digits.npz"))
    trainer.train_base(made)
    trainer.build_targets(made)
    trainer.train_surrogate(made)
    trainer.certify_test_split(made)
    trainer.calibrate_surrogate(made)
    return made.path


@pytest.fixture(scope="session")
def bundle(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the fp32 bundle exported from `workspace`."""
    from rrise.export import export_onnx

    return export_onnx(workspace, tmp_path_factory.mktemp("exported") / "bundle").path
