"""Every record that a device keeps names its format: a newer one is called newer, one of release 0.1 is read as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrise.calibration.statistics.drift import DriftReference, SleepingMartingale, WrongRateTest
from rrise.edge_sdk.device import audit, drift, suspension
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.keys import PrivateKey, PublicKey
from rrise.edge_sdk.formats.sealed import read_sealed, write_sealed
from rrise.edge_sdk.formats.signing import (
    LOG_FORMATS,
    SIGNATURE_FORMATS,
    Signature,
    Trust,
    sign_release,
)

RECORDS = [
    (suspension.FORMATS, "suspension"),
    (drift.REFERENCE_FORMATS, "drift reference"),
    (drift.STATE_FORMATS, "drift monitor's memory"),
    (audit.FORMATS, "audit log"),
]


@pytest.mark.parametrize(("formats", "what"), RECORDS)
def test_sealed_records_of_other_versions(tmp_path: Path, formats: tuple[str, ...], what: str) -> None:
    path = tmp_path / "record.json"

    def read() -> dict:
        return read_sealed(path, what, formats=formats, mend="run X again")

    write_sealed(path, {"x": 1})  # as release 0.1 wrote it
    assert read() == {"x": 1}
    write_sealed(path, {"format": formats[-1], "x": 1})
    assert read() == {"x": 1}
    name = formats[-1].rpartition("/")[0]
    write_sealed(path, {"format": f"{name}/99", "x": 1})
    with pytest.raises(BundleError, match="written by a newer version of rrise"):
        read()
    write_sealed(path, {"format": "something/1", "x": 1})
    with pytest.raises(BundleError, match="not a file of this kind"):
        read()


def test_a_suspension_of_a_newer_version_still_suspends(tmp_path: Path) -> None:
    class Held:
        path = tmp_path

    (tmp_path / "device").mkdir()
    write_sealed(tmp_path / "device" / suspension.FILE, {"format": "rrise-suspension/9", "why": "dark"})
    assert "written by a newer version" in str(suspension.suspended_because(Held()))  # type: ignore[arg-type]
    write_sealed(tmp_path / "device" / suspension.FILE, {"reason": "drift", "release": "x", "time": 1.0})
    assert str(suspension.suspended_because(Held())).startswith("drift; find the cause")  # type: ignore[arg-type]


def test_signatures_and_release_logs(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = PrivateKey.generate()
    sign_release(tmp_path, "d" * 64, 3, key)
    path = tmp_path / "signature.json"
    written = json.loads(path.read_text())
    assert written["format"] == SIGNATURE_FORMATS[-1]
    trust = Trust.of(key.public, log=tmp_path / "log.json")
    path.write_text(json.dumps({name: value for name, value in written.items() if name != "format"}))
    signature = trust.check_release(tmp_path, "d" * 64)  # as release 0.1 signed
    assert trust.remember(signature)
    assert json.loads((tmp_path / "log.json").read_text()) == {
        "format": LOG_FORMATS[-1],
        key.public.key_id: 3,
    }
    (tmp_path / "log.json").write_text(json.dumps({key.public.key_id: 4}))  # as release 0.1 noted
    with pytest.raises(BundleError, match="is release 3, expected at least 4"):
        trust.check_release(tmp_path, "d" * 64)
    (tmp_path / "log.json").write_text(json.dumps({"format": "rrise-release-log/2", key.public.key_id: 1}))
    with pytest.raises(BundleError, match=r"release log .*written by a newer version of rrise"):
        trust.check_release(tmp_path, "d" * 64)
    path.write_text(json.dumps({**written, "format": "rrise-signature/7"}))
    with pytest.raises(BundleError, match=r"signature .*written by a newer version of rrise"):
        Signature.load(path)


OLDER = Path(__file__).resolve().parents[2] / "data" / "older" / "device-2026-11-27"


def test_what_a_device_kept_before_is_read_as_before() -> None:
    pytest.importorskip("cryptography")

    def read(name: str, formats: tuple[str, ...]) -> dict:
        assert "format" not in json.loads((OLDER / name).read_text())
        return read_sealed(OLDER / name, name, formats=formats)

    assert read("suspension.json", suspension.FORMATS)["reason"] == "drift: kept as test data"
    audits = SleepingMartingale.from_json(read("audit-state.json", audit.FORMATS), WrongRateTest(0.05).bets)
    assert audits.seen == 2
    reference = DriftReference.from_json(read("drift-reference.json", drift.REFERENCE_FORMATS)["reference"])
    assert reference.mean.shape == (6,)
    assert reference.test(read("drift-state.json", drift.STATE_FORMATS)).martingale.seen == 5
    digest = json.loads((OLDER / "signature.json").read_text())["digest"]
    trust = Trust.of(PublicKey.load(OLDER / "key.pub"), log=OLDER / "releases.json")
    assert trust.check_release(OLDER, digest).release == 3
    with pytest.raises(BundleError, match="does not belong to this manifest"):
        trust.check_release(OLDER, "0" * 64)
