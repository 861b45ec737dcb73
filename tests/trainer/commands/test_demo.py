"""`rrise-train demo`: which commands it runs, what it keeps, what it says where one of them fails."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rrise.calibration.errors import CheckFailed
from rrise.trainer import Workspace
from rrise.trainer.cli import main
from rrise.trainer.commands.demo import (
    Step,
    check_data,
    execute,
    run_aside,
    run_warm,
    save_pictures,
    show,
    steps_of,
)
from rrise.trainer.errors import TrainerError

LOOP = ["rrise-train init", "rrise-train run", "rrise-export onnx"]


def test_the_whole_loop_in_order_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    def first_words() -> list[str]:
        return [" ".join(step.words[:2]) for step in steps_of(tmp_path, "digits", "quick")]

    assert first_words() == LOOP
    (tmp_path / "rrise.toml").touch()
    assert first_words() == LOOP[1:]
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").touch()
    assert first_words() == LOOP[1:2]


def test_a_step_is_run_as_it_is_shown() -> None:
    ran: list[list[str]] = []
    step = Step(("rrise-edge", "demo", "bundle", "pictures"), "certify")
    execute(step, lambda words: ran.append(list(words)) or 0)
    assert ran == [[sys.executable, "-m", "rrise.edge_sdk", *step.words[1:]]]


def test_with_json_the_steps_print_aside(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_aside([sys.executable, "-c", "print('said')"]) == 0
    show(Step(("rrise-edge", "demo"), "certify"), aside=True)
    assert capfd.readouterr() == ("", "said\n\n# certify\n$ rrise-edge demo\n")


@pytest.mark.skipif(sys.platform != "linux", reason="a process is copied on Linux only")
def test_a_copy_of_the_process_runs_the_command_as_a_new_one_would(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_warm([sys.executable, "-m", "rrise.trainer", "--version"]) == 0
    # Not the program's name: click keeps the one that another test of this process asked for.
    assert ", version " in capfd.readouterr().out
    assert run_warm([sys.executable, "-m", "rrise.trainer", "--version"], aside=True) == 0
    shown = capfd.readouterr()
    assert ", version " in shown.err and not shown.out
    assert run_warm([sys.executable, "-m", "rrise.trainer", "run", str(tmp_path)]) == 2
    assert "no rrise.toml in it" in capfd.readouterr().err


def test_the_status_of_a_step_that_fails_is_kept() -> None:
    step = Step(("rrise-export", "onnx", "demo"), "export")
    with pytest.raises(CheckFailed, match="rrise-export onnx demo"):
        execute(step, lambda words: 1)
    with pytest.raises(TrainerError, match="what is done is kept"):
        execute(step, lambda words: 2)


def test_data_that_are_not_there_end_it_with_the_message_of_init(tmp_path: Path, capfd: object) -> None:
    done = CliRunner().invoke(main, ["demo", str(tmp_path / "w"), "--data", str(tmp_path / "nothing")])
    assert done.exit_code == 2 and "rrise-train init" in done.output + done.stderr
    assert "nothing" in capfd.readouterr().err  # type: ignore[attr-defined]
    assert not (tmp_path / "w").exists()


def test_pictures_are_the_test_frames(workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "workspace"
    copy.mkdir()
    for name in ("rrise.toml", "splits.npz"):
        (copy / name).write_bytes((workspace / name).read_bytes())
    assert save_pictures(copy, 5) == 5
    files = sorted((copy / "pictures").glob("*.png"))
    opened = Workspace.open(workspace)
    names = [opened.class_names[label] for label in opened.labels("test")[:5]]
    assert [file.stem.split("-")[1] for file in files] == names
    assert np.array_equal(np.asarray(Image.open(files[2])), opened.frames("test")[2][:, :, 0])


def test_other_data_than_the_workspace_has_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rrise.toml").write_text('[data]\nsource = "mine"\n')
    check_data(tmp_path, str(tmp_path / "mine"))
    check_data(tmp_path, "digits")  # nobody asked
    with pytest.raises(TrainerError, match=r"got others, but the workspace .* is of mine"):
        check_data(tmp_path, "others")
    (tmp_path / "rrise.toml").write_text("")
    with pytest.raises(TrainerError, match="is of digits"):
        check_data(tmp_path, "others")
    check_data(tmp_path / "new", "others")
