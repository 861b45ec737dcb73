"""Every numbered example runs as a user would run it, on tiny settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import save_digits, tiny_config
from tests.programs import run_script

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *words: object) -> str:
    """Run an example from the root of the checkout and return what it prints."""
    done = run_script(ROOT / script, *words, cwd=ROOT)
    assert done.status == 0, done.errors
    return done.output


def run_alone(*command: object) -> str:
    """The same in a process of its own."""
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An rrise.toml of tiny settings."""
    folder = tmp_path_factory.mktemp("settings")
    save_digits(folder / "digits.npz", 600)
    path = folder / "rrise.toml"
    path.write_text(tiny_config(folder / "digits.npz").to_toml())
    return path


@pytest.fixture(scope="module")
def loop(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, str]":
    folder = tmp_path_factory.mktemp("loop") / "demo"
    return folder, run("examples/01_the_loop.py", "--workspace", folder, "--config", settings)


def test_the_loop_ends_in_a_bundle_and_a_report(loop: "tuple[Path, str]") -> None:
    folder, printed = loop
    assert "certified accuracy  " in printed and "audit of certificates" in printed
    assert (
        printed.count("probit RMSE 0.") + printed.count("probit RMSE 1.") == 3
    )  # the unchanged base and both ways of training
    numbers = json.loads((folder / "report" / "report.json").read_text())
    assert numbers["certified_accuracy"]["rrise"][0] > 0.3
    assert numbers["latency"]["certify_us"]["p50"] > 0 and numbers["latency"]["speed_up"] > 1
    page = (folder / "report" / "report.html").read_text()
    assert page.count("<svg") == 4 and numbers["sentence"] in page


def test_the_loop_keeps_what_is_finished(loop: "tuple[Path, str]", settings: Path) -> None:
    folder, _ = loop
    before = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    run("examples/01_the_loop.py", "--workspace", folder, "--config", settings)
    assert before and all(path.read_bytes() == content for path, content in before.items())


def test_too_few_frames_are_refused_before_the_work(tmp_path: Path) -> None:
    """Also: data of one's own get a workspace of their own, so that they do not meet that of the digits."""
    save_digits(tmp_path / "few.npz", 100)
    command = [sys.executable, str(ROOT / "examples" / "01_the_loop.py"), "--data", "few.npz"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "20 calibration frames are too few" in done.stderr
    assert "at least 81" in done.stderr
    assert (tmp_path / "runs" / "few" / "rrise.toml").exists()
    assert not (tmp_path / "runs" / "few" / "base.safetensors").exists()


def test_the_report_command_gives_the_same_numbers(loop: "tuple[Path, str]", tmp_path: Path) -> None:
    folder, _ = loop
    scores = next((folder / "scores").glob("onnxruntime-*"))
    printed = run_alone(
        "-m", "rrise.calibration.cli", "report", scores, "--record", folder / "bundle/calibration/fp32.json",
        "--certify", folder / "certify.npz", "--cost", folder / "cost.json", "--out", tmp_path, "--json",
    )  # fmt: skip
    numbers, expected = json.loads(printed), json.loads((folder / "report" / "report.json").read_text())
    assert numbers["certified_accuracy"] == expected["certified_accuracy"]
    assert numbers["audit"] == expected["audit"] and numbers["latency"] is None


def test_the_camera_loop_plays_a_recording(loop: "tuple[Path, str]") -> None:
    folder, _ = loop
    printed = run_alone(
        "examples/02_camera_loop.py", folder / "bundle", folder / "references/test.npz", "--count", 100
    )
    assert "certified" in printed and "latency" in printed


def test_your_own_classifier_is_certified(settings: Path, tmp_path: Path) -> None:
    printed = run(
        "examples/03_your_own_classifier.py",
        "--workspace",
        tmp_path / "own",
        "--config",
        settings,
        "--epochs",
        20,
    )
    line = next(line for line in printed.splitlines() if "test frames certified" in line)
    assert float(line.split()[3].rstrip(",")) > 0.3
