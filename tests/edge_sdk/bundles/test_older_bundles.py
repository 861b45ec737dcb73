"""A signed bundle of release 0.1, kept as it was: it loads, answers its probe, keeps its promise and certifies bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration.tables.references import References
from rrise.edge_sdk import Certifier
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.device.loading import State
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.signing import Trust

DATA = Path(__file__).resolve().parents[2] / "data"
RELEASE = "3341f45656a7d7075d07bc8918c69cb31d0878840c3715a50378a3863bb7e19d"
FRAMES = 40


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A copy, since loading may write what this device learns."""
    return Path(shutil.copytree(DATA / "bundle-0.1", tmp_path / "bundle"))


def test_its_files_and_its_promise_are_read_as_they_were_written(older: Path) -> None:
    bundle = Bundle.open(older)
    assert bundle.manifest.digest == RELEASE
    record = bundle.calibrations["fp32"]
    assert record.to_json() == json.loads((older / "calibration" / "fp32.json").read_text())
    assert record.message() == "offset 0.134396 is score 294 of 300 frames"
    assert "at most 5 % of new frames receive a wrong certificate" in record.guarantee.sentence()


def test_it_certifies_bit_for_bit(older: Path) -> None:
    """On the execution that it was calibrated on; elsewhere, where nothing is issued before `verify`, up to rounding."""
    answers = json.loads((DATA / "answers-0.1.json").read_text())
    frames = References.load(DATA / "verification-0.1.npz").frames[:FRAMES]
    with Certifier.load(
        older, allow_unverified=True
    ) as certifier:  # refuses a probe that is answered otherwise
        found = [certifier.certify(frame) for frame in frames]
        same = certifier.state.state is State.CALIBRATED
    assert [certificate.label for certificate in found] == answers["label"]
    radii = np.array([float.fromhex(radius) for radius in answers["radius"]])
    assert (radii > 0).sum() == 36
    if same:
        assert [certificate.status.value for certificate in found] == answers["status"]
        assert np.array_equal([certificate.radius for certificate in found], radii)
    else:
        assert np.allclose([certificate.radius for certificate in found], radii, atol=1e-4)


def test_its_signature_holds_and_a_changed_byte_does_not(older: Path) -> None:
    pytest.importorskip("cryptography")
    trust = Trust.of(DATA / "bundle-0.1.pub")
    Certifier.load(older, trust=trust).close()
    graph = older / "surrogate.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    with pytest.raises(BundleError):
        Certifier.load(older, trust=trust)


def test_what_is_kept_is_small() -> None:
    kept = [DATA / "bundle-0.1.pub", DATA / "answers-0.1.json", DATA / "verification-0.1.npz"]
    kept += [path for path in (DATA / "bundle-0.1").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < 300_000
