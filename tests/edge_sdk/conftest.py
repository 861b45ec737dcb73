"""Hand-made bundles that the edge tests share; copy one before damaging it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


@pytest.fixture(scope="session")
def hand_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated grey 8x8 bundle; its verification pack lies beside it as hand-references.npz."""
    return helpers.make_bundle(tmp_path_factory.mktemp("bundles") / "hand")


@pytest.fixture(scope="session")
def batch_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for colour frames, four to a batch."""
    return helpers.make_bundle(tmp_path_factory.mktemp("bundles") / "batch", Spec((6, 5, 3), batch=4, seed=1))


@pytest.fixture
def copied(hand_bundle: Path, tmp_path: Path) -> Path:
    """A private copy of `hand_bundle`."""
    return helpers.copy(hand_bundle, tmp_path / "copied")


@pytest.fixture(scope="session")
def pack(hand_bundle: Path) -> Path:
    """The verification references of `hand_bundle`."""
    return hand_bundle.parent / "hand-references.npz"
