"""A hand-made bundle whose preprocessing is the trainer's, and base classifiers for it as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

PREPROCESSING = {
    "frame_shape": [8, 8, 1],
    "encoding": "mono8",
    "crop": [0, 0, 8, 8],
    "size": [8, 8],
    "operator_norm": 1.0,
}


def base_model(weights: np.ndarray, *, classes: int = 3, side: int = 8, claim: str = "") -> bytes:
    """x float32 [N, 1, side, side] -> logits [N, classes], linear."""
    from onnx import numpy_helper, parser

    model = parser.parse_model(f"""
    <ir_version: 10, opset_import: ["" : 18]>
    base (float[N, 1, {side}, {side}] x) => (float[N, {classes}] logits) {{
      flat = Flatten(x)
      logits = MatMul(flat, weights)
    }}""")
    model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), "weights"))
    if claim:
        model.metadata_props.add(key="rrise.base", value=claim)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def audit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated 8x8 bundle; a surrogate that was far too sure of itself calibrates it badly when asked to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "PREPROCESSING", PREPROCESSING)
        return helpers.make_bundle(tmp_path_factory.mktemp("audits") / "bundle")


@pytest.fixture
def bundle(audit_bundle: Path, tmp_path: Path) -> Path:
    return helpers.copy(audit_bundle, tmp_path / "bundle")


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base classifier that gives the surrogate's label far more surely than any certificate claims."""
    path = tmp_path_factory.mktemp("base") / "honest.onnx"
    path.write_bytes(base_model(helpers.weights(Spec())))
    return path


@pytest.fixture(scope="session")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base classifier that never agrees: every certificate is wrong by it."""
    path = tmp_path_factory.mktemp("base") / "contrary.onnx"
    path.write_bytes(base_model(-helpers.weights(Spec())))
    return path
