"""`rrise-export` on the shared workspace: exit status, summary and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from rrise.edge_sdk import Certifier
from rrise.edge_sdk.device.loading import State
from rrise.export import pipeline
from rrise.export.cli import main
from tests.export import damage


def test_a_workspace_becomes_a_bundle(bundle: Path, workspace: Path) -> None:
    pack = np.load(workspace / "references" / "verification.npz", allow_pickle=False)
    with Certifier.load(bundle) as certifier:
        assert certifier.state.state is State.CALIBRATED
        certificates = certifier.certify_batch(pack["frames"])
    assert sum(map(bool, certificates)) > len(certificates) // 4


def test_the_command_writes_the_bundle_into_the_workspace(workspace: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workspace, tmp_path / "workspace")
    settings = copy / "rrise.toml"
    settings.write_text(settings.read_text().replace("[acceptance]", "[acceptance]\nmax_drop = 0.01"))
    result = CliRunner().invoke(main, ["onnx", str(copy), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["bundle"] == str(copy / "bundle") and said["gate"][0]["passed"]
    assert said["artefacts"]["fp32"]["execution"]["runtime"] == "onnxruntime"
    assert said["artefacts"]["fp32"]["attempt"] == 1
    assert said["latency"]["fp32"]["p50_ratio"] == 1 and said["latency"]["fp32"]["p50_us"] > 0
    assert said["notes"] == ["max_drop was not checked, since no --baseline was given"]
    page = (copy / "report" / "export.html").read_text()
    assert "latency p50" in page and "certified accuracy at 0.25" in page and "(1.000x)" in page
    again = CliRunner().invoke(main, ["onnx", str(copy)])
    assert again.exit_code == 2 and "pass --force" in again.stderr


def test_a_failed_gate_is_exit_status_1_and_no_bundle(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*arguments: object) -> onnx.ModelProto:
        model = original(*arguments)
        damage.scale_largest_weight(1.01)(model)
        return model

    original = pipeline.lower
    monkeypatch.setattr(pipeline, "lower", damaged)
    copy = shutil.copytree(
        workspace, tmp_path / "workspace", ignore=shutil.ignore_patterns(".cache", "report")
    )
    result = CliRunner().invoke(main, ["onnx", str(copy)])
    assert result.exit_code == 1
    assert "failed: no bundle was written" in result.stderr and "change of the probit" in result.stderr
    assert not (copy / "bundle").exists() and not list(copy.glob(".bundle*"))
    assert (copy / "report" / "gate.xml").read_text().count("<failure") >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["onyx", "."], "Did you mean 'onnx'?"),
        (["onnx", "nowhere"], "no rrise.toml in it"),
        (["onnx", ".", "--precison", "fp16"], "'--precision'?"),
    ],
)
def test_mistakes_say_what_was_meant(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and message in result.stderr
