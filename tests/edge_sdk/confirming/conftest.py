"""Hand-made bundles that carry their base classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrise.calibration.storage.digests import file_digest
from rrise.edge_sdk.confirming.classifier import engine_name
from rrise.edge_sdk.formats.bundled_base import BundledBase
from rrise.edge_sdk.formats.manifest import Manifest
from tests.edge_sdk import helpers
from tests.edge_sdk.auditing.conftest import PREPROCESSING, audit_bundle, base_model
from tests.edge_sdk.helpers import Spec

__all__ = ["audit_bundle"]  # a fixture that both folders use


def carrying(path: Path, model: bytes, **base: Any) -> Path:
    """A calibrated 8x8 bundle with this base classifier inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "base.onnx").write_bytes(model)
    digest = file_digest(path.parent / "base.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "PREPROCESSING", PREPROCESSING)
        patch.setattr(helpers, "BASE_DIGEST", digest)
        helpers.make_bundle(path)
    (path / "base.onnx").write_bytes(model)
    manifest = Manifest.load(path / "manifest.json")
    described = BundledBase("base.onnx", len(model), **{"engine": engine_name("cpu"), **base})
    replace(manifest, files={**manifest.files, "base.onnx": digest}, base=described).save(
        path / "manifest.json"
    )
    return path


@pytest.fixture(scope="session")
def honest_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its base classifier gives the surrogate's label far more surely than any certificate claims."""
    model = base_model(helpers.weights(Spec()))
    return carrying(tmp_path_factory.mktemp("confirming") / "honest", model)


@pytest.fixture(scope="session")
def contrary_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its base classifier never agrees."""
    model = base_model(-helpers.weights(Spec()))
    return carrying(tmp_path_factory.mktemp("confirming") / "contrary", model)


@pytest.fixture
def honest(honest_bundle: Path, tmp_path: Path) -> Path:
    return helpers.copy(honest_bundle, tmp_path / "honest")


@pytest.fixture
def contrary(contrary_bundle: Path, tmp_path: Path) -> Path:
    return helpers.copy(contrary_bundle, tmp_path / "contrary")


class Clock:
    """Goes on by `step` seconds whenever it is looked at."""

    def __init__(self, step: float = 1e-4) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def issued(certifier, count: int = 5):
    """Frames that receive a certificate, with it."""
    pairs = [(frame, certifier.certify(frame)) for frame in helpers.random_frames(Spec(), 40)]
    found = [(frame, certificate) for frame, certificate in pairs if certificate]
    assert len(found) >= count
    return found[:count]


def random_x(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 8, 8), dtype=np.float32)
