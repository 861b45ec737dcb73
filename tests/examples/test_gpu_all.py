"""The script for a machine with a GPU: every step of it on the processor, so that it does not fail on its first real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.test_examples import ROOT
from tests.programs import run_script

SCRIPT = ROOT / "examples" / "gpu" / "all.py"
STEPS = [
    "small",
    "attack",
    "counting",
    "base",
    "targets",
    "surrogate",
    "calibrate",
    "certify",
    "export",
    "info",
    "runtimes",
]


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


def test_what_failed_is_in_the_one_file_that_is_carried_home(tmp_path: Path) -> None:
    """A base classifier of no known network: nothing that needs it begins, and the file says why."""
    assert call(tmp_path, "--minutes", 0)[0] == 3
    for name in ("small", "workspace"):
        settings = tmp_path / name / "rrise.toml"
        settings.write_text(settings.read_text().replace('method = "', 'method = "un'))
    (tmp_path / "counting.json").write_text('{"seconds": 1.0, "result": {}}')
    status, said = call(tmp_path, "--minutes", 5)
    found = json.loads((tmp_path / "all.json").read_text())
    assert (
        status == 1
        and sorted(found["not done"]) == ["base", "small"]
        and sorted(found["steps"]) == ["counting"]
    )
    assert "expected one of" in " ".join(found["not done"]["base"]) and "torch" in found["packages"]
    assert "base: exit status 2" in said and "small: exit status 2" in said
