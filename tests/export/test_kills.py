"""An export that is killed at any moment leaves a whole bundle or none, and the next one succeeds."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rrise.edge_sdk.bundles.bundle import Bundle

PROGRAM = "from rrise.export.cli import main; main()"


@pytest.mark.long
def test_killed_exports_leave_a_whole_bundle_or_none(workspace: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workspace, tmp_path / "workspace", ignore=shutil.ignore_patterns(".cache"))
    command = [sys.executable, "-c", PROGRAM, "onnx", str(copy), "--precision", "int8", "--force"]
    whole = 0
    for step in range(12):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=0.7 * (step + 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if (copy / "bundle").exists():
            whole += 1
            assert set(Bundle.open(copy / "bundle").manifest.artefacts) == {"fp32", "int8"}
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Bundle.open(copy / "bundle").calibrations.keys() == {"fp32", "int8"}
    assert whole < 12, "no run was killed before its bundle was there: the test needs shorter steps"
