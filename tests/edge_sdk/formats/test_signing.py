"""A Certifier that was given a key loads what that key signed, no older release, and nothing else."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("cryptography", reason="cryptography is not installed")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from rrise.calibration.storage.files import read_json
from rrise.edge_sdk import Certifier, Trust
from rrise.edge_sdk import certifier as certifier_module
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.device.drift import DriftMonitor, DriftSettings, fit_reference
from rrise.edge_sdk.device.verification_record import VerificationRecord, load_record, save_record
from rrise.edge_sdk.errors import BundleError, EdgeError
from rrise.edge_sdk.formats.keys import PrivateKey, PublicKey
from rrise.edge_sdk.formats.manifest import Manifest
from rrise.edge_sdk.formats.sealed import write_sealed
from rrise.edge_sdk.formats.signing import SIGNATURE_FILE, Signature
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export.cli import main
from rrise.export.releasing.keys import sign_bundle, sign_device_records, write_key_pair
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.generate()


@pytest.fixture(scope="module")
def other() -> PrivateKey:
    return PrivateKey.generate()


def test_a_signed_bundle_loads(copy: Path, key: PrivateKey) -> None:
    sign_bundle(copy, key, 3)
    with Certifier.load(copy, trust=Trust.of(key.public)) as certifier:
        assert certifier.bundle.signature is not None and certifier.bundle.signature.release == 3
    with Certifier.load(copy) as certifier:
        assert certifier.bundle.signature is None


def test_the_signature_is_plain_ed25519(copy: Path, key: PrivateKey) -> None:
    """Checked with the library alone, over the bytes that the format describes."""
    import hashlib
    import json

    sign_bundle(copy, key, 3)
    said = json.loads((copy / SIGNATURE_FILE).read_text())
    signature = bytes.fromhex(said.pop("signature"))
    assert said.pop("format") == "rrise-signature/1"  # beside the statement that is signed
    assert said == {"digest": Bundle.open(copy).manifest.digest, "key_id": key.public.key_id, "release": 3}
    statement = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    message = b"rrise-release/1\n" + hashlib.sha256(statement).hexdigest().encode()
    ed25519.Ed25519PublicKey.from_public_bytes(key.public.raw).verify(signature, message)


def test_nothing_else_loads(copy: Path, key: PrivateKey, other: PrivateKey) -> None:
    trust = Trust.of(key.public)
    with pytest.raises(BundleError, match="is not signed"):
        Certifier.load(copy, trust=trust)
    sign_bundle(copy, other, 1)
    with pytest.raises(
        BundleError, match=f"signed by key {other.public.key_id}, expected {key.public.key_id}"
    ):
        Certifier.load(copy, trust=trust)


def forge_number(signature: Signature, other: PrivateKey) -> Signature:
    return Signature(signature.key_id, 99, signature.digest, signature.value)


def forge_digest(signature: Signature, other: PrivateKey) -> Signature:
    return Signature(signature.key_id, signature.release, "0" * 64, signature.value)


def forge_value(signature: Signature, other: PrivateKey) -> Signature:
    return Signature(signature.key_id, signature.release, signature.digest, other.sign(b"anything"))


@pytest.mark.parametrize("forge", [forge_number, forge_digest, forge_value])
def test_forged_signatures_are_refused(copy: Path, key: PrivateKey, other: PrivateKey, forge: object) -> None:
    signature = sign_bundle(copy, key, 1)
    forge(signature, other).save(copy / SIGNATURE_FILE)  # type: ignore[operator]
    with pytest.raises(BundleError, match="does not belong to this manifest"):
        Certifier.load(copy, trust=Trust.of(key.public))


def test_a_changed_bundle_that_was_sealed_again_is_refused(copy: Path, key: PrivateKey) -> None:
    """All digests fit again, as an attacker without the key would make them."""
    from tests.export.damage import reseal

    sign_bundle(copy, key, 1)
    (copy / "report.html").write_text("changed")
    reseal(copy)
    Certifier.load(copy).close()
    with pytest.raises(BundleError, match="does not belong to this manifest"):
        Certifier.load(copy, trust=Trust.of(key.public))


def test_a_damaged_signature_file_is_refused(copy: Path, key: PrivateKey) -> None:
    sign_bundle(copy, key, 1)
    deep, endless = "[" * 100_000, '{"key_id": "a", "release": Infinity, "digest": "b", "signature": ""}'
    for text in (
        "",
        "{}",
        "[]",
        '{"key_id": 1}',
        deep,
        endless,
        "[" + " " * 100_000 + "]",
        (copy / SIGNATURE_FILE).read_text()[:-20],
    ):
        (copy / SIGNATURE_FILE).write_text(text)
        with pytest.raises(BundleError):
            Certifier.load(copy, trust=Trust.of(key.public))


def test_an_older_release_is_refused(copy: Path, key: PrivateKey, tmp_path: Path) -> None:
    trust = Trust.of(key.public, log=tmp_path / "releases.json")
    sign_bundle(copy, key, 5)
    Certifier.load(copy, trust=trust).close()
    sign_bundle(copy, key, 4)
    with pytest.raises(BundleError, match="is release 4, expected at least 5"):
        Certifier.load(copy, trust=trust)
    sign_bundle(copy, key, 6)
    with pytest.raises(BundleError, match="expected at least 7"):
        Certifier.load(copy, trust=Trust.of(key.public, minimum_release=7))
    Certifier.load(copy, trust=trust).close()
    (tmp_path / "releases.json").write_text("not a log")
    with pytest.raises(BundleError, match="not a release log"):
        Certifier.load(copy, trust=trust)


def test_only_what_is_in_use_is_remembered(
    copy: Path, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused swap, or a release that was rolled back, must not lock out the running one at the next start."""
    newer, log = Path(shutil.copytree(copy, tmp_path / "newer")), tmp_path / "releases.json"
    trust = Trust.of(key.public, log=log)
    sign_bundle(copy, key, 4)
    sign_bundle(newer, key, 5)

    def noted() -> object:
        return read_json(log, "log")[key.public.key_id]

    with Certifier.load(copy, trust=trust) as certifier:
        monkeypatch.setattr(certifier_module, "check_exchangeable", _refuse)
        with pytest.raises(EdgeError, match="does not fit"):
            certifier.swap(newer)
        assert noted() == 4
        monkeypatch.undo()
        certifier.swap(newer)
        assert noted() == 5
        certifier.rollback()
        assert noted() == 4
        certifier.swap(newer)
        Trust.of(key.public, log=log).remember(Signature(key.public.key_id, 6, "", b""))
        certifier.rollback()
        assert noted() == 6, "another process is further: nothing is given back"
    with pytest.raises(BundleError, match="is release 4, expected at least 6"):
        Certifier.load(copy, trust=trust)


def _refuse(mine: Manifest, theirs: Manifest) -> None:
    raise EdgeError("it does not fit")


def test_two_products_that_start_at_once_are_both_remembered(tmp_path: Path) -> None:
    """One log for two keys: each process reads, changes and writes it while the other waits."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rrise.edge_sdk.formats.signing import PublicKey, Signature, Trust\n"
        "trust = Trust(PublicKey(bytes([int(sys.argv[1])] * 32)), log=Path(sys.argv[2]))\n"
        "for release in range(1, 41): trust.remember(Signature(trust.release_key.key_id, release, '', b''))\n"
    )
    log = tmp_path / "releases.json"
    started = [subprocess.Popen([sys.executable, "-c", script, str(number), str(log)]) for number in range(2)]
    assert [process.wait(timeout=60) for process in started] == [0, 0]
    noted = read_json(log, "log")
    assert noted.pop("format") == "rrise-release-log/1" and sorted(noted.values()) == [40, 40]


def test_a_release_that_cannot_be_remembered_is_not_loaded(
    copy: Path, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the log lies on a read-only disk, an older bundle would load next time."""
    closed = []
    monkeypatch.setattr(OnnxRuntime, "close", lambda runtime: closed.append(runtime))
    (tmp_path / "file").write_text("")
    sign_bundle(copy, key, 5)
    with pytest.raises(EdgeError, match="cannot remember there which release is in use"):
        Certifier.load(copy, trust=Trust.of(key.public, log=tmp_path / "file" / "releases.json"))
    assert len(closed) == 1


def record_of(bundle: Bundle) -> VerificationRecord:
    execution = bundle.calibrations["fp32"].execution
    names = set(VerificationRecord.__dataclass_fields__)
    values: dict[str, Any] = {
        "release": bundle.manifest.digest,
        "execution": execution,
        "references": "0" * 64,
        "frames": 10,
        "independent": 10,
        "margin": 0.01,
        "probe": "0" * 64,
    }
    return VerificationRecord(**{name: values[name] for name in names})


def test_device_records_need_the_device_key(copy: Path, key: PrivateKey, other: PrivateKey) -> None:
    sign_bundle(copy, key, 1)
    record = record_of(Bundle.open(copy))
    save_record(Bundle.open(copy), record)

    def load(**options: object) -> object:
        return load_record(Bundle.open(copy, trust=Trust.of(key.public, **options)), record.execution)  # type: ignore[arg-type]

    with pytest.raises(BundleError, match="without a device key"):
        load()
    assert load(accept_local_records=True) == record
    with pytest.raises(BundleError, match="is not signed"):
        load(device_key=other.public)
    (signed,) = sign_device_records(copy, other)
    assert load(device_key=other.public) == record
    with pytest.raises(BundleError, match="its signature is not by device key"):
        load(device_key=key.public)
    write_sealed(signed, {**record.to_json(), "margin": 0.0})
    with pytest.raises(BundleError, match="its signature is not by device key"):
        load(device_key=other.public)


def test_keys_come_from_files_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = write_key_pair(tmp_path / "release.key")
    assert stat.S_IMODE((tmp_path / "release.key").stat().st_mode) == 0o600
    assert (
        PrivateKey.load(tmp_path / "release.key").public
        == public
        == PublicKey.load(tmp_path / "release.key.pub")
    )
    monkeypatch.setenv("RRISE_SIGNING_KEY", (tmp_path / "release.key").read_text())
    assert PrivateKey.load().public == public
    monkeypatch.delenv("RRISE_SIGNING_KEY")
    with pytest.raises(EdgeError, match="got neither a file nor RRISE_SIGNING_KEY"):
        PrivateKey.load()
    assert PrivateKey.load(tmp_path / "release.key").raw.hex() not in repr(
        PrivateKey.load(tmp_path / "release.key")
    )


def test_pem_keys_work_and_other_kinds_are_refused(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "key.pub").write_bytes(public)
    assert PrivateKey.load(tmp_path / "key.pem").public == PublicKey.load(tmp_path / "key.pub")
    wrong = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "ec.pem").write_bytes(wrong)
    with pytest.raises(EdgeError, match="got another kind of key"):
        PrivateKey.load(tmp_path / "ec.pem")
    (tmp_path / "bad").write_text("zz")
    for path in (tmp_path / "bad", tmp_path / "nowhere"):
        with pytest.raises(EdgeError):
            PublicKey.load(path)
    with pytest.raises(EdgeError, match="got 3 bytes"):
        PublicKey.load(b"abc")


def test_a_public_key_does_not_sign(copy: Path, tmp_path: Path) -> None:
    """64 hexadecimal characters may be either half: what everybody knows would be the secret."""
    run = CliRunner().invoke
    assert run(main, ["keygen", str(tmp_path / "k")]).exit_code == 0
    private, public = PrivateKey.load(tmp_path / "k"), PublicKey.load(tmp_path / "k.pub")
    (tmp_path / "old").write_text(private.raw.hex() + "\n")  # as rrise wrote them until 0.1
    (tmp_path / "old.pub").write_text(public.raw.hex() + "\n")
    shutil.copy(tmp_path / "old.pub", tmp_path / "renamed")
    for name in ("k.pub", "old.pub", "renamed"):
        refused = run(main, ["sign", str(copy), "--key", str(tmp_path / name), "--release", "1"])
        assert refused.exit_code == 2 and "private key" in refused.stderr, name
        assert not (copy / SIGNATURE_FILE).exists()
    assert PrivateKey.load(tmp_path / "old") == private
    with pytest.raises(EdgeError, match="other half"):
        PublicKey.load(tmp_path / "k")


def test_a_drift_reference_needs_the_device_key(copied: Path, key: PrivateKey, other: PrivateKey) -> None:
    """Whoever may write the device folder could let a monitor that never alarms take the place of one that does."""
    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    references = helpers.make_references(Spec(), "calibration", 220, seed=4)
    fit_reference(bundle, runtime, references, DriftSettings())
    trusted = replace(bundle, trust=Trust.of(key.public, device_key=other.public))
    with pytest.raises(BundleError, match="is not signed"):
        DriftMonitor.load(trusted, runtime.execution)
    write_sealed(bundle.device_folder(runtime.execution) / "drift-state.json", {"changes": "while it runs"})
    (signed,) = sign_device_records(copied, other)
    assert signed.name == "drift-reference.json"
    (signed.with_name("drift-state.json")).unlink()
    assert DriftMonitor.load(trusted, runtime.execution) is not None


def test_the_commands_sign_pack_and_unpack(copy: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(main, ["keygen", str(tmp_path / "k")]).exit_code == 0
    again = run(main, ["keygen", str(tmp_path / "k")])
    assert again.exit_code == 2 and "an existing key is never replaced" in again.stderr
    assert "--release: got none" in run(main, ["sign", str(copy), "--key", str(tmp_path / "k")]).stderr
    assert run(main, ["sign", str(copy), "--key", str(tmp_path / "k"), "--release", "2"]).exit_code == 0
    assert run(main, ["pack", str(copy), str(tmp_path / "b.rrise")]).exit_code == 0
    assert run(main, ["keygen", str(tmp_path / "l")]).exit_code == 0
    unpack = ["unpack", str(tmp_path / "b.rrise"), str(tmp_path / "out"), "--public-key"]
    refused = run(main, [*unpack, str(tmp_path / "l.pub")])
    assert refused.exit_code == 2 and "signed by key" in refused.stderr and not (tmp_path / "out").exists()
    assert run(main, [*unpack, str(tmp_path / "k.pub")]).exit_code == 0
    Certifier.load(tmp_path / "out", trust=Trust.of(tmp_path / "k.pub")).close()
