"""The script for a machine with a GPU: every step of it on the processor, so that it does not fail on its first real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.test_examples import ROOT
from tests.programs import run_script

SCRIPT = ROOT / "examples" / "gpu" / "all.py"
STEPS = ["base", "counting", "targets", "surrogate", "calibrate", "certify", "export", "info", "runtimes"]


def call(out: Path, *words: object) -> tuple[int, str]:
    done = run_script(SCRIPT, "--out", out, "--device", "cpu", "--small", *words, cwd=ROOT)
    return done.status, done.output + done.errors


def test_without_time_nothing_is_begun_and_nothing_is_claimed(tmp_path: Path) -> None:
    status, said = call(tmp_path, "--minutes", 0)
    assert status == 3, said
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["steps"] == {} and "not done" in (tmp_path / "all.html").read_text()


@pytest.mark.long
def test_every_step_runs_and_none_runs_twice(tmp_path: Path) -> None:
    status, said = call(tmp_path, "--minutes", 20)
    assert status == 0, said
    found = json.loads((tmp_path / "all.json").read_text())["steps"]
    assert sorted(found) == sorted(STEPS)
    assert found["counting"]["result"] and found["calibrate"]["result"]["calibration"]
    assert found["runtimes"]["status"] in (0, 1, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json") if path.name != "all.json"}
    (tmp_path / "info.json").unlink()
    status, said = call(tmp_path, "--minutes", 20)
    assert status == 0 and (tmp_path / "info.json").exists()
    for path, time in before.items():
        assert path.name == "info.json" or path.stat().st_mtime_ns == time
