"""`rrise-export` on the shared workspace: exit status, summary and JSON."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from rrise.edge_sdk import Certifier
from rrise.edge_sdk.device.loading import State
from rrise.export import products
from rrise.export.cli import main
from rrise.trainer import Workspace
from rrise.trainer.data.catalogue import Catalogue
from tests.export import damage


def test_a_workspace_becomes_a_bundle(bundle: Path, workspace: Path) -> None:
    pack = np.load(workspace / "references" / "verification.npz", allow_pickle=False)
    with Certifier.load(bundle) as certifier:
        assert certifier.state.state is State.CALIBRATED
        certificates = certifier.certify_batch(pack["frames"])
    assert sum(map(bool, certificates)) > len(certificates) // 4
    lines = (bundle / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"onnxruntime=={onnxruntime.__version__}"]


def test_the_command_writes_the_bundle_into_the_workspace(workspace: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workspace, tmp_path / "workspace")
    settings = copy / "rrise.toml"
    settings.write_text(settings.read_text().replace("[acceptance]", "[acceptance]\nmax_drop = 0.01"))
    result = CliRunner().invoke(main, ["onnx", str(copy), "--json"])
    assert result.exit_code == 0, result.output
    (said,) = json.loads(result.stdout)["exports"]
    assert said["bundle"] == str(copy / "bundle") and said["gate"][0]["passed"]
    assert said["artefacts"]["fp32"]["execution"]["runtime"] == "onnxruntime"
    assert said["artefacts"]["fp32"]["attempt"] == 1
    assert said["latency"]["fp32"]["p50_ratio"] == 1 and said["latency"]["fp32"]["p50_us"] > 0
    assert said["notes"] == ["max_drop was not checked, since no --baseline was given"]
    page = (copy / "report" / "export.html").read_text()
    assert "latency p50" in page and "certified accuracy at 0.25" in page and "(1.000x)" in page
    assert "With confidence 95 % over the calibration frames" in page and "wrong certificates an hour" in page
    index = (copy / "report" / "index.html").read_text()
    assert "after `rrise-export onnx`" in index and "fp32; without base.onnx" in index
    assert 'href="export.html"' in index and 'href="../bundle/report.html"' in index
    shown = (copy / "bundle" / "report.html").read_text()
    folded = shown[shown.index("<summary>Digests") :]
    assert said["artefacts"]["fp32"]["base_digest"] in folded
    assert said["artefacts"]["fp32"]["base_digest"] not in shown[: -len(folded)], "digests are folded away"
    again = CliRunner().invoke(main, ["onnx", str(copy)])
    assert again.exit_code == 2 and "pass --force" in again.stderr


def test_a_failed_gate_is_exit_status_1_and_no_bundle(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*arguments: Any) -> onnx.ModelProto:
        model = original(*arguments)
        damage.scale_largest_weight(1.01)(model)
        return model

    original = products.lower  # type: ignore[attr-defined]
    monkeypatch.setattr(products, "lower", damaged)
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


def test_keep_going_leaves_out_what_fails_and_still_says_so(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(
        workspace, tmp_path / "workspace", ignore=shutil.ignore_patterns(".cache", "report")
    )
    command = ["onnx", str(copy), "--precision", "fp16", "--tolerance", "fp16.probit=0", "--json"]
    stopped = CliRunner().invoke(main, command)
    assert stopped.exit_code == 1 and not (copy / "bundle").exists()
    assert json.loads(stopped.stdout)["exports"][0]["bundle"] is None, "one shape, whatever became of it"
    result = CliRunner().invoke(main, [*command, "--keep-going"])
    assert result.exit_code == 1 and "the bundle has no fp16: fp16: change of the probit" in result.stderr
    (said,) = json.loads(result.stdout)["exports"]
    assert list(said["artefacts"]) == ["fp32"] and said["left_out"][0]["precision"] == "fp16"
    with Certifier.load(copy / "bundle") as certifier:
        assert certifier.state.state is State.CALIBRATED and sorted(certifier.bundle.manifest.artefacts) == [
            "fp32"
        ]
    suites = (copy / "report" / "gate.xml").read_text()
    assert 'name="fp32"' in suites and 'name="fp16"' in suites and "<failure" in suites


def test_keep_going_does_not_go_on_without_fp32(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(
        workspace, tmp_path / "workspace", ignore=shutil.ignore_patterns(".cache", "report")
    )
    command = ["onnx", str(copy), "--tolerance", "fp32.probit=0", "--keep-going"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1 and not (copy / "bundle").exists()


def test_a_build_server_needs_no_pictures(workspace: Path, tmp_path: Path) -> None:
    """What it needs: settings, splits, networks, packs and cache/catalogue.npz, which says what the frames were."""
    lean = tmp_path / "lean"
    keep = (
        "rrise.toml",
        "splits.npz",
        "base.onnx",
        "base.json",
        "base.safetensors",
        "surrogate.safetensors",
        "attempts.jsonl",
    )
    for name in keep:
        if (workspace / name).exists():
            lean.mkdir(exist_ok=True)
            shutil.copy(workspace / name, lean / name)
    shutil.copytree(workspace / "references", lean / "references")
    (lean / "cache").mkdir()
    settings, source, gone = (
        lean / "rrise.toml",
        Workspace.open(workspace).config.data.source,
        str(tmp_path / "gone.npz"),
    )
    settings.write_text(settings.read_text().replace(source, gone))
    known = Catalogue.load(workspace / "cache" / "catalogue.npz")
    assert known is not None and known.asked["source"] == source
    # As where the pictures were read from a place that this machine does not have.
    replace(known, asked={**known.asked, "source": gone}).save(lean / "cache" / "catalogue.npz")
    result = CliRunner().invoke(main, ["onnx", str(lean)])
    assert result.exit_code == 0, result.output
    with Certifier.load(lean / "bundle") as certifier:
        assert certifier.state.state is State.CALIBRATED
