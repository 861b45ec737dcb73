"""The same ONNX file in other runtimes, without our SDK: the examples give the recorded label and radius."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rrise.edge_sdk.bundles.bundle import Bundle

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
# Float32 in another order of summation; a thousand times the largest difference seen.
TOLERANCE = 1e-4


def run(*command: str, **environment: str) -> dict[str, object]:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def check(bundle: Path, row: int, answer: dict[str, object]) -> None:
    opened = Bundle.open(bundle)
    expected = opened.probe.expected["fp32"]
    assert answer["label"] == expected.label[row]
    assert answer["class"] == opened.manifest.class_names[expected.label[row]]
    assert answer["radius"] == pytest.approx(float(expected.radius[row]), abs=TOLERANCE)


def certified_row(bundle: Path) -> int:
    row = int(Bundle.open(bundle).probe.expected["fp32"].radius.argmax())
    assert Bundle.open(bundle).probe.expected["fp32"].radius[row] > 0.05
    return row


def node_modules() -> str:
    """Where npm has put onnxruntime-node, or a skip that says what is missing."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    roots = [os.environ.get("NODE_PATH", "")]
    if shutil.which("npm"):
        roots.append(subprocess.run(["npm", "root", "-g"], capture_output=True, text=True).stdout.strip())
    for root in filter(None, roots):
        if (Path(root) / "onnxruntime-node").is_dir():
            return root
    pytest.skip("onnxruntime-node is not installed: npm install -g onnxruntime-node, or set NODE_PATH")


@pytest.mark.parametrize("which", ["bundle", "colour_bundle"])
def test_node(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    modules, bundle = node_modules(), request.getfixturevalue(which)
    row = certified_row(bundle)
    (tmp_path / "frame.raw").write_bytes(
        np.ascontiguousarray(Bundle.open(bundle).probe.frames[row]).tobytes()
    )
    command = ["node", str(EXAMPLES / "05_node.cjs"), str(bundle), str(tmp_path / "frame.raw")]
    check(bundle, row, run(*command, NODE_PATH=modules))


@pytest.mark.parametrize("which", ["bundle", "colour_bundle"])
def test_openvino(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    bundle = request.getfixturevalue(which)
    row = certified_row(bundle)
    np.save(tmp_path / "frame.npy", Bundle.open(bundle).probe.frames[row])
    command = [sys.executable, str(EXAMPLES / "04_openvino.py"), str(bundle), str(tmp_path / "frame.npy")]
    check(bundle, row, run(*command))
