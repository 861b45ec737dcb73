from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rrise.calibration.tables.evaluation import AuditVerdict
from rrise.trainer.attacks.attack import AttackResult, FalseCertificateRate
from rrise.trainer.cli import main
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import read_header
from rrise.trainer.reports.stages import look
from rrise.trainer.settings.config import BaseConfig, Config
from rrise.trainer.workspace import Workspace
from tests.trainer.data.pictures import class_folders, picture
from tests.trainer.helpers import copied, edit


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_init_writes_a_workspace(tmp_path: Path) -> None:
    result = run("init", tmp_path / "w", "--sigma", "0.5", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["splits"]["calibration"] == 300
    assert "sigma = 0.5" in (tmp_path / "w" / "rrise.toml").read_text()


def test_init_says_what_cannot_work_before_anything_is_spent(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 90, 80), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(60) % 2, class_names=np.array(["a", "b"]))
    text = run("init", tmp_path / "w", "--data", tmp_path / "x.npz").stdout
    assert "32x28 pixels" in text
    # the first attempt spends delta / 2: (1 - 0.045)^81 <= 0.025 < (1 - 0.045)^80
    assert "12 calibration frames are too few: error 0.05 (pac) needs at least 81" in text
    assert "attention" not in run("init", tmp_path / "digits").stdout


@pytest.mark.parametrize("stage", ["base", "targets", "surrogate", "calibrate", "certify"])
def test_every_stage_runs_again(workspace: Path, tmp_path: Path, stage: str) -> None:
    copy = copied(workspace, tmp_path)
    result = run(stage, copy.path)
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) > 2 and result.stderr == ""
    assert json.loads(run(stage, copy.path, "--json").stdout)


def test_calibrate_shows_promise_limits_and_monte_carlo(workspace: Path, tmp_path: Path) -> None:
    text = run("calibrate", copied(workspace, tmp_path).path).stdout
    assert "With confidence 95 %" in text and "distribution shift" in text
    assert "5,400 an hour" in text and "Monte Carlo N = 200" in text


def test_second_attempt_is_shown(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), 'error = "0.05"', 'error = "0.1"')
    assert "2 of this product: calibrated more strictly" in run("calibrate", copy.path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "{}", "--sigma", "0"], "sigma: got 0.0"),
        (["init", "{}", "--data", "/no/such/folder"], "no such file or folder"),
        (["base", "{}"], "rrise-train init"),
        (["surrogat", "{}"], "Did you mean 'surrogate'"),
        (["base", "{}", "--agian"], "--again"),
        (["base", "{}", "--minutes", "-3"], "--minutes"),
    ],
)
def test_what_could_not_run_is_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run(*(argument.format(tmp_path / "w") for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    "words",
    [["targets"], ["targets", "--benchmark"], ["certify"], ["run"], ["agree", "--engine", "torch"]],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("device", "message"), [("cuda:9", "device: got 'cuda:9'"), ("gpu", "expected auto, cpu, cuda or cuda:1")]
)
def test_a_device_that_is_not_there_is_refused_by_every_command(
    workspace: Path, words: list[str], device: str, message: str
) -> None:
    result = run(words[0], workspace, *words[1:], "--device", device)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_missing_stage_names_the_command(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    (copy.path / "references" / "calibration.npz").unlink()
    result = run("calibrate", copy.path)
    assert result.exit_code == 2 and "rrise-train targets" in result.stderr
    assert run("targets", copy.path).exit_code == 0
    assert run("calibrate", copy.path).exit_code == 0


def test_attack_prints_its_rate(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "rrise.trainer.attacks.search.VOTES", 40
    )  # by which its results are compared: most of its time
    copy = copied(workspace, tmp_path)
    result = run("attack", copy.path, "--rho", "0.1", "--steps", "2", "--samples", "100", "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed == json.loads((copy.path / "attack.json").read_text())
    assert printed["promised"] is None and printed["attacked"]["frames"] == 40
    assert "nothing under attack" in run("attack", copy.path, "--steps", "1", "--samples", "100").stdout


def test_a_broken_promise_is_status_1(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = FalseCertificateRate(AuditVerdict(100, 100, 20, 80, 0), 0.2, 0.127, 0.292)
    broken = AttackResult(0.1, rate, rate, promised=0.1, moved=0.1)
    monkeypatch.setattr("rrise.trainer.commands.attack.attack", lambda *arguments, **options: broken)
    result = run("attack", workspace)
    assert result.exit_code == 1 and "at least 0.1270, promised 0.1" in result.stderr


def test_init_draws_no_splits_so_that_sizes_can_be_edited(tmp_path: Path) -> None:
    result = run("init", tmp_path / "w", "--calibration", "250")
    assert "calibration        250" in result.stdout and not (tmp_path / "w" / "splits.npz").exists()
    text = (tmp_path / "w" / "rrise.toml").read_text()
    assert "calibration = 250  # the promise rests on these frames" in text
    edited = edit(Workspace.open(tmp_path / "w"), "calibration = 250", "calibration = 260")
    assert len(edited.splits.calibration) == 260


def test_init_shows_classes_repeats_and_contradictions(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8)
    images[1] = images[0]
    images[3] = images[2]
    labels = np.array([0, 0, 0, 1] + [0] * 286 + [1] * 8 + [2] * 2)
    np.savez(tmp_path / "x.npz", images=images, labels=labels, class_names=np.array(["car", "bus", "van"]))
    result = run("init", tmp_path / "w", "--data", tmp_path / "x.npz")
    assert "2 frames that occur before, 2 with two labels" in result.stdout
    assert "the first as 'bus' and 'car' (frames 2, 3)" in result.stdout
    assert "fewer than 10 training frames of 'van'" in result.stdout
    shown = json.loads(run("init", tmp_path / "w", "--data", tmp_path / "x.npz", "--json").stdout)
    assert sum(shown["classes"]["van"].values()) == 2 and shown["classes"]["van"]["train"] >= 1
    assert {item["stage"] for item in shown["estimates"]} >= {"base", "targets", "surrogate"}


def test_init_with_a_camera_and_held_out_images(tmp_path: Path) -> None:
    class_folders(tmp_path / "old", count=20)
    class_folders(tmp_path / "new", count=40, first=60)
    picture(tmp_path / "old" / "a" / "large.png", 9, (40, 30))
    arguments = ["--data", tmp_path / "old", "--held-out", tmp_path / "new"]
    refused = run("init", tmp_path / "w", *arguments)
    assert refused.exit_code == 2 and "--camera 640x480" in refused.stderr
    assert not (tmp_path / "w" / "rrise.toml").exists()
    shown = json.loads(run("init", tmp_path / "w", *arguments, "--camera", "8x6", "--json").stdout)
    assert shown["splits"] == {"train": 41, "tuning": 16, "calibration": 32, "verification": 16, "test": 16}
    made = Workspace.open(tmp_path / "w")
    assert made.dataset.frames.shape == (121, 6, 8, 3) and made.config.data.camera == (6, 8)


@pytest.mark.parametrize(
    ("sigma", "meant"), [("64", "64 / 255 = 0.251"), ("0.00098", "0.00098 \\* 255 = 0.25")]
)
def test_sigma_in_another_unit_is_refused(tmp_path: Path, sigma: str, meant: str) -> None:
    result = run("init", tmp_path / "w", "--sigma", sigma)
    assert result.exit_code == 2 and meant.replace("\\", "") in result.stderr and "white 1" in result.stderr


def test_samples_that_are_no_multiple_are_refused_at_once(tmp_path: Path) -> None:
    run("init", tmp_path / "w")
    path = tmp_path / "w" / "rrise.toml"
    path.write_text("\ufeff" + path.read_text().replace("train = 500", "train = 50"), encoding="utf-8")
    result = run("base", tmp_path / "w")
    assert result.exit_code == 2 and "[targets] train: got 50, expected a multiple of 100" in result.stderr


def test_run_does_what_is_missing(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    before = copy.surrogate_path.read_bytes()
    result = run("run", copy.path)
    assert result.exit_code == 0, result.stderr
    assert (copy.path / "report" / "report.html").stat().st_size > 10_000
    assert copy.surrogate_path.read_bytes() == before and "rrise-export onnx" in result.stdout


def test_run_leaves_the_comparison_out_and_says_what_it_would_take(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    copy.references_path("test").unlink()
    copy.certify_path.unlink()
    for stream in ("audit", "selection", "certify-100", "certify-200"):
        shutil.rmtree(copy.targets_path / stream)
    result = run("run", copy.path)
    assert result.exit_code == 0, result.stderr
    assert "run --compare" not in result.stdout and f"{copy.path} --compare" in result.stdout
    assert "32,000 evaluations of the base classifier" in result.stdout, (
        "40 test frames, 100 + 100 + 200 + 400 each"
    )
    assert not copy.certify_path.exists() and not (copy.targets_path / "audit").exists()
    numbers = json.loads((copy.path / "report" / "report.json").read_text())
    assert numbers["judged_on"] == "verification" and list(numbers["worth"]) == ["rrise"]
    assert numbers["audit"]["frames"] == len(copy.splits.verification)
    assert "Not compared with Monte Carlo" in (copy.path / "report" / "report.html").read_text()
    compared = run("run", copy.path, "--compare")
    assert compared.exit_code == 0, compared.stderr
    assert "selection, certify-100, certify-200, audit: 32,000 evaluations" in compared.stderr
    assert "to compare" not in compared.stdout and "Monte Carlo, N = 200" in compared.stdout
    assert json.loads((copy.path / "report" / "report.json").read_text())["judged_on"] == "test"


def test_init_refuses_images_that_are_gone_though_it_has_read_them_before(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", count=12)
    assert run("init", tmp_path / "w", "--data", tmp_path / "data").exit_code == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    result = run("init", tmp_path / "w", "--data", tmp_path / "data")
    assert result.exit_code == 2 and f"{str(tmp_path / 'data')!r}: no such file or folder" in result.stderr


@pytest.mark.parametrize(("file", "stage"), [("base", "base"), ("surrogate", "surrogate")])
def test_a_network_that_is_not_there_names_the_stage(tmp_path: Path, file: str, stage: str) -> None:
    with pytest.raises(TrainerError, match=f"run `rrise-train {stage} {tmp_path}` first"):
        read_header(tmp_path / f"{file}.safetensors")
    with pytest.raises(TrainerError, match="no such file; expected a safetensors file"):
        read_header(tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    "own", [{"factory": "a:b", "weights": "w.safetensors"}, {"black_box": "a:b", "version": "1"}]
)
def test_the_next_command_lets_code_of_ones_own_run(tmp_path: Path, own: dict[str, str]) -> None:
    asked = Config(base=replace(BaseConfig(), **own))  # type: ignore[arg-type]
    opened = Workspace(tmp_path, asked)
    assert {stage.command[-13:] for stage in look(opened).stages} == {" --allow-code"}
    assert opened.command("rrise-train run") == f"rrise-train run {tmp_path} --allow-code"
    assert Workspace(tmp_path, Config()).command("rrise-train run") == f"rrise-train run {tmp_path}"


def test_without_pytorch_every_command_names_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root / "src")])}
    for words in (["rrise.trainer", "run", "w"], ["rrise.trainer", "-h"], ["rrise.export", "onnx", "w"]):
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert done.returncode == 2, done.stderr
        assert "torch is not installed" in done.stderr and "pip install 'torch>=2.6'" in done.stderr
