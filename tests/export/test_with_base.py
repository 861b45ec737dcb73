"""`rrise-export onnx --with-base`: the bundle carries base.onnx, with what is known of engines; what cannot travel is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rrise.calibration.errors import RriseError
from rrise.calibration.storage.digests import file_digest
from rrise.edge_sdk import Certifier, Status
from rrise.edge_sdk.auditing.base_classifier import BaseModel
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.formats.signing import Trust
from rrise.export.base import bundled_base, read_agreements
from rrise.export.cli import main
from rrise.export.errors import ExportError
from rrise.export.gating.gate_report import Check
from rrise.export.releasing.keys import sign_bundle, write_key_pair
from rrise.export.releasing.pack import pack_bundle, unpack_bundle
from rrise.export.releasing.recheck import against_workspace
from rrise.export.source import load_source
from rrise.trainer import Workspace
from tests.trainer.helpers import copied

ENGINE = "onnxruntime 1 float32 cpu x86_64"


def _entry(**changes: object) -> dict[str, object]:
    entry = {
        "first": ENGINE, "second": "torch 2 float32 cpu x86_64", "split": "tuning", "frames": 40, "draws": 1000,
        "differing": 1, "bound": 0.009, "tolerance": 0.009, "slip": 0.001, "sigma": 0.25, "base_digest": "d" * 64,
        "seed": 1, "share": 0.001, "confidence": 0.999,
    }  # fmt: skip
    return {**entry, **changes}


def _write(path: Path, *entries: dict[str, object], **changes: object) -> Path:
    file = path / "agreement.json"
    file.write_text(json.dumps({"format": "rrise-agreement/1", "agreements": list(entries), **changes}))
    return file


def test_the_whole_way_from_workspace_to_confirmed_frame(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    digest = copy.base_digest
    _, described = bundled_base(copy, digest)
    _write(copy.path, _entry(first=described.engine, base_digest=digest))
    out = tmp_path / "bundle"
    result = CliRunner().invoke(main, ["onnx", str(copy.path), "--out", str(out), "--with-base"])
    assert result.exit_code == 0, result.output
    size = (copy.path / "base.onnx").stat().st_size
    assert f"in the bundle as base.onnx, {size:,} bytes; counted by onnxruntime" in result.output
    assert f"in the bundle as base.onnx, {size:,} bytes" in (out / "report.html").read_text()
    opened = Bundle.open(out)
    assert file_digest(out / "base.onnx") == opened.manifest.base_digest == digest
    assert opened.manifest.base is not None and opened.manifest.base.agreements[0].tolerance == 0.009
    assert BaseModel.bundled(opened).data == (copy.path / "base.onnx").read_bytes()
    with Certifier.load(out) as certifier:
        references = copy.references("verification")
        certificates = [(frame, certifier.certify(frame)) for frame in references.frames]
        frame, certificate = max(certificates, key=lambda pair: pair[1].radius > 0)
        found = certifier.confirm(frame, certificate, 60.0)
        assert found.status in (Status.CONFIRMED, Status.REFUTED) and found.confirmation.samples > 0
    # Signed and packed like all else.
    private, public = _key_pair(tmp_path)
    sign_bundle(out, private, 1)  # type: ignore[arg-type]
    pack_bundle(out, tmp_path / "bundle.tar")
    unpack_bundle(tmp_path / "bundle.tar", tmp_path / "there", trust=Trust.of(public))
    assert file_digest(tmp_path / "there" / "base.onnx") == digest
    # `rrise-export check`: another tolerance than the workspace's is found.
    assert _check(out, copy.path).passed
    _write(copy.path, _entry(first=described.engine, base_digest=digest, tolerance=0.5))
    check = _check(out, copy.path)
    assert not check.passed and check.got.startswith("base ")


def _check(bundle: Path, workspace: Path) -> Check:
    return against_workspace(Bundle.open(bundle), "fp32", load_source(workspace, with_base=True))[0]


def _key_pair(folder: Path) -> tuple[object, Path]:
    from rrise.edge_sdk.formats.keys import PrivateKey

    write_key_pair(folder / "key")
    return PrivateKey.load(folder / "key"), folder / "key.pub"


def test_a_changed_base_is_refused(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    with (copy.path / "base.onnx").open("ab") as file:
        file.write(b"\0")
    result = CliRunner().invoke(main, ["onnx", str(copy.path), "--out", str(tmp_path / "b"), "--with-base"])
    assert result.exit_code == 2 and "changed since it was written" in result.output
    assert not (tmp_path / "b").exists()


def test_a_base_that_is_no_file_cannot_travel(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    (copy.path / "base.json").unlink()  # as in workspaces from before, or of a black box
    with pytest.raises(ExportError, match="is no ONNX file"):
        bundled_base(Workspace.open(copy.path), file_digest(copy.path / "base.safetensors"))


def test_only_agreements_of_this_base_engine_and_sigma_count(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        _entry(split="test", tolerance=0.5),
        _entry(),
        _entry(second="other", base_digest="e" * 64),
        _entry(second="another", first="openvino"),
        _entry(second="third", sigma=0.5),
    )
    (found,) = read_agreements(file, "d" * 64, ENGINE, 0.25)
    assert found.engine.startswith("torch") and found.tolerance == 0.009 and found.split == "tuning"
    assert read_agreements(tmp_path / "absent.json", "d" * 64, ENGINE, 0.25) == ()


def test_an_agreement_that_cannot_be_read_stops_the_export(tmp_path: Path) -> None:
    for entries, changes in (
        ([_entry(tolerance="much")], {}),
        ([_entry(tolerance=2.0)], {}),
        ([{"first": ENGINE}], {}),
        ([], {"format": "rrise-agreement/9"}),
    ):
        file = _write(tmp_path, *entries, **changes)
        with pytest.raises(RriseError, match=r"cannot be read|newer version of rrise"):
            read_agreements(file, "d" * 64, ENGINE, 0.25)
