"""A workspace of 125 commits ago: today's version goes on with it, and never says that somebody changed it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rrise.calibration.errors import CalibrationError, RriseError
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.attempts import AttemptLog
from rrise.calibration.storage.files import read_arrays, write_arrays
from rrise.calibration.storage.formats import check_format
from rrise.calibration.tables.cost import CostLedger
from rrise.edge_sdk import Certifier
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.manifest import Manifest
from rrise.export.pipeline import gate_bundle
from rrise.trainer import Workspace
from rrise.trainer.cli import main
from rrise.trainer.counts.targets import build_targets
from rrise.trainer.montecarlo.storage.identity import Identity
from rrise.trainer.scores.calibrate import calibrate_surrogate

OLD = Path(__file__).resolve().parents[1] / "data" / "older" / "workspace-2026-11-26.zip"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


def test_every_stage_goes_on_where_the_older_version_stopped(old: Path) -> None:
    workspace = Workspace.open(old)
    before = {
        path: path.read_bytes() for path in old.rglob("*") if path.name in ("splits.npz", "base.safetensors")
    }
    assert build_targets(workspace).drawn == 0
    assert len(workspace.cost().entries) >= 5 and CostLedger.load(old / "cost.json") == workspace.cost()
    result = calibrate_surrogate(workspace)
    assert result.record.attempt == 1, "the same computation again is no further attempt"
    lines = AttemptLog(old / "attempts.jsonl").lines()
    assert "format" not in lines[0] and lines[-1]["format"] == 2
    assert AttemptLog(old / "attempts.jsonl").append("f" * 64, {"x": 1}) == 2
    for stage in ("base", "surrogate"):
        done = CliRunner().invoke(main, [stage, str(old)])
        assert done.exit_code == 0 and ("kept" in done.output or "done before" in done.output), done.output
    assert all(path.read_bytes() == data for path, data in before.items()), (
        "nothing was trained or drawn anew"
    )


def test_its_bundle_opens_and_a_check_says_that_it_is_older(old: Path) -> None:
    with Certifier.load(old / "bundle") as certifier:
        assert certifier.certify(np.zeros(certifier.bundle.manifest.input.frame_shape, np.uint8)) is not None
    report = gate_bundle(old / "bundle", old)[0]
    failed = [check for check in report.checks if not check.passed]
    assert failed and all("older version of rrise" in check.got for check in failed), failed
    assert all("rrise-export onnx WORKSPACE --force" in check.limit for check in failed)


def test_a_file_of_a_newer_version_is_called_that(old: Path) -> None:
    record = next((old / "bundle" / "calibration").glob("*.json"))
    value = json.loads(record.read_text())
    with pytest.raises(CalibrationError, match="newer version of rrise"):
        Calibration.from_json({**value, "format": "rrise-calibration/9"})
    manifest = json.loads((old / "bundle" / "manifest.json").read_text())
    with pytest.raises(BundleError, match="newer version of rrise"):
        Manifest.from_json({**manifest, "version": 2})
    identity = dict(json.loads((old / "targets.zarr" / "train" / "zarr.json").read_text())["attributes"])
    with pytest.raises(RriseError, match="newer version of rrise"):
        Identity.read("targets", {**identity, "version": 99})
    cost = old / "cost.json"
    cost.write_text(json.dumps({"format": "rrise-cost/7", "stages": {}}))
    with pytest.raises(CalibrationError, match="newer version of rrise"):
        CostLedger.load(cost)
    log = AttemptLog(old / "attempts.jsonl")
    log.append("f" * 64, {"x": 1})
    log.path.write_text(log.path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(CalibrationError, match="newer version of rrise"):
        log.lines()


def test_tables_name_their_format(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    write_arrays(path, {"x": np.arange(3)}, {"table": "t"})
    assert read_arrays(path, "table", ["x"])[1] == {"table": "t"}
    with np.load(path) as written:
        meta = json.loads(str(written["meta"]))
    assert meta["file_format"] == 2
    np.savez(path, x=np.arange(3), meta=np.array(json.dumps({**meta, "file_format": 3})))
    with pytest.raises(CalibrationError, match="newer version of rrise"):
        read_arrays(path, "table", ["x"])


@pytest.mark.parametrize(
    ("got", "words"),
    [
        ("rrise-x/1", "older version of rrise .*make it again"),
        ("rrise-x/4", "newer version of rrise .*install that version"),
        ("rrise-y/2", "not a file of this kind"),
        (None, "not a file of this kind"),
        (True, "not a file of this kind"),
        (2, "not a file of this kind"),
    ],
)
def test_versions_are_told_apart_from_damage(got: object, words: str) -> None:
    check_format("file", "rrise-x/2", ["rrise-x/2", "rrise-x/3"], "make it again")
    with pytest.raises(CalibrationError, match=words):
        check_format("file", got, ["rrise-x/2", "rrise-x/3"], "make it again")
