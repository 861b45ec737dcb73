"""`rrise-edge` with keys: every command that loads a bundle refuses what `Trust` refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("cryptography", reason="cryptography is not installed")

from rrise.edge_sdk import Certifier
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.cli import main
from rrise.edge_sdk.formats.keys import PrivateKey
from rrise.edge_sdk.formats.signing import sign_release
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


def _run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.generate()


@pytest.fixture
def public(key: PrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "release.pub"
    path.write_text(key.public.raw.hex())
    return path


@pytest.fixture
def signed(copied: Path, key: PrivateKey) -> Path:
    sign_release(copied, Bundle.open(copied).manifest.digest, 2, key)
    return copied


@pytest.fixture
def commands(pack: Path, tmp_path: Path) -> list[tuple[object, ...]]:
    """Every command that loads a bundle, with what it needs behind the bundle."""
    Image.fromarray(helpers.random_frames(Spec(), 1)[0][:, :, 0]).save(tmp_path / "a.png")
    calibration = tmp_path / "calibration.npz"
    helpers.make_references(Spec(), "calibration", 300, 77).save(calibration)
    return [
        ("info",),
        ("certify", tmp_path / "a.png"),
        ("bench", "--count", 20),
        ("verify", "--references", pack, "--dry-run"),
        ("recalibrate", "--references", calibration, "--dry-run"),
        ("drift", "--references", pack),
        ("reset",),
        ("watch", tmp_path / "a.png"),
    ]


def test_a_signed_bundle_passes_everywhere(signed, public, commands):
    for name, *rest in commands:
        made = (
            ("--accept-local-records",) if name == "watch" else ()
        )  # `drift` has left its reference by then
        result = _run(name, signed, *rest, "--public-key", public, *made)
        assert result.exit_code == 0, (name, result.output)


def test_an_unsigned_bundle_is_refused_everywhere(copied, public, commands):
    for name, *rest in commands:
        result = _run(name, copied, *rest, "--public-key", public)
        assert result.exit_code == 2 and "is not signed" in result.output, name


def test_another_key_is_refused(signed, tmp_path):
    other = tmp_path / "other.pub"
    other.write_text(PrivateKey.generate().public.raw.hex())
    result = _run("info", signed, "--public-key", other)
    assert result.exit_code == 2 and "signed by key" in result.output


def test_an_older_release_is_refused_once_a_newer_one_was_loaded(signed, key, public, tmp_path):
    older, log = Path(shutil.copytree(signed, tmp_path / "older")), tmp_path / "releases.json"
    sign_release(older, Bundle.open(older).manifest.digest, 1, key)
    words = ("--public-key", public, "--release-log", log)
    assert _run("reset", signed, *words).exit_code == 0 and not log.exists()  # looks, and deploys nothing
    assert _run("info", signed, *words).exit_code == 0
    assert json.loads(log.read_text()) == {"format": "rrise-release-log/1", key.public.key_id: 2}
    for command in ("info", "reset"):
        result = _run(command, older, *words)
        assert result.exit_code == 2 and "an older release is refused" in result.output


def test_device_records_need_a_signature_or_acceptance(signed, public, tmp_path):
    calibration = tmp_path / "calibration.npz"
    helpers.make_references(Spec(), "calibration", 300, 77).save(calibration)
    assert _run("recalibrate", signed, "--references", calibration).exit_code == 0
    refused = _run("info", signed, "--public-key", public)
    assert refused.exit_code == 2 and "without a device key" in refused.output
    refused = _run("info", signed, "--public-key", public, "--device-key", public)
    assert refused.exit_code == 2 and "is not signed" in refused.output
    accepted = _run("info", signed, "--public-key", public, "--accept-local-records")
    assert accepted.exit_code == 0 and "calibrated on this device" in accepted.output


@pytest.mark.parametrize(
    "words", [("--release-log", "log"), ("--device-key", "key"), ("--accept-local-records",)]
)
def test_options_that_mean_nothing_without_a_key_are_refused(signed, words):
    result = _run("info", signed, *words)
    assert result.exit_code == 2 and "got no --public-key" in result.output


def test_no_key_asks_for_nothing(copied):
    with Certifier.load(copied) as certifier:
        assert certifier.bundle.trust is None
    assert _run("info", copied).exit_code == 0
