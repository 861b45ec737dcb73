"""`rrise-calibrate fit`, `study` and `guard` as a user calls them: results, exit status, and messages that help."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rrise.calibration import Calibration
from rrise.calibration.cli import main
from rrise.calibration.storage.attempts import AttemptLog
from tests.calibration.helpers import draw_scores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw_scores(1, 300, 2000, split="tuning", start=10**6).save(tmp_path / "tuning.npz")
    draw_scores(2, 400, 2000).save(tmp_path / "calibration.npz")
    return tmp_path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["pac", "marginal", "per-class", "whole-clip"])
def test_fit_writes_a_record_of_each_kind(folder: Path, kind: str) -> None:
    done = _run("fit", folder / "calibration.npz", "--out", folder / "record.json", "--kind", kind)
    assert done.exit_code == 0, done.output
    record = Calibration.load(folder / "record.json")
    assert record and record.guarantee.kind == kind and record.head.map.name == "clopper-pearson"
    assert "promise" in done.output and "condition" in done.output and "per hour" in done.output


def test_fit_chooses_on_the_tuning_split(folder: Path) -> None:
    options = ("--tuning", folder / "tuning.npz", "--radius", "0.3", "--choose-beta", "--json")
    done = _run("fit", folder / "calibration.npz", "--out", folder / "r.json", *options)
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert value["plan"]["radius"] == 0.3 and len(value["plan"]["candidates"]) >= 8
    assert value["head"]["map"] == value["plan"]["map"]


def test_fit_makes_a_staircase_of_several_radii(folder: Path) -> None:
    options = ("--tuning", folder / "tuning.npz", "--radius", "0.15,0.3,0.45", "--weights", "1,1,2")
    done = _run("fit", folder / "calibration.npz", "--out", folder / "r.json", *options)
    assert done.exit_code == 0, done.output
    assert "every certificate has one of the radii 0.15, 0.3, 0.45" in done.output
    stairs = Calibration.load(folder / "r.json").head.map
    assert stairs.name == "staircase" and len(stairs.thresholds) == 3
    study = _run(
        "study", folder / "tuning.npz", "--out", folder / "study", *options[2:], "--errors", "0.05", "--json"
    )
    value = json.loads(study.stdout)
    assert value["radius"] == [0.15, 0.3, 0.45] and value["weights"] == [1, 1, 2]
    assert "staircase" in {row["name"] for row in value["maps"]}
    selective = ("--kind", "selective", "--error", "0.1", "--map", "staircase")
    done = _run("fit", folder / "calibration.npz", "--out", folder / "s.json", *options, *selective)
    record = Calibration.load(folder / "s.json")
    assert done.exit_code == 0 and record.head.map.name == "staircase" and record.head.threshold is None


def test_selective_takes_its_threshold_from_the_tuning_split_or_the_user(folder: Path) -> None:
    base = (
        "fit",
        folder / "calibration.npz",
        "--out",
        folder / "r.json",
        "--kind",
        "selective",
        "--error",
        "0.1",
    )
    assert _run(*base, "--tuning", folder / "tuning.npz").exit_code == 0
    assert Calibration.load(folder / "r.json").head.threshold is not None
    assert _run(*base, "--threshold", "0.3").exit_code == 0
    refused = _run(*base)
    assert refused.exit_code == 2 and "needs a threshold or a list of offsets" in refused.output


def test_selective_by_fixed_sequence_testing(folder: Path) -> None:
    base = ("fit", folder / "calibration.npz", "--out", folder / "r.json", "--error", "0.1", "--sequence")
    done = _run(*base, "--kind", "selective", "--tuning", folder / "tuning.npz")
    assert done.exit_code == 0, done.output
    assert Calibration.load(folder / "r.json").head.threshold is None
    assert _run(*base, "--kind", "selective", "--threshold", "0.3").exit_code == 2
    assert _run(*base, "--tuning", folder / "tuning.npz").exit_code == 2


def test_a_second_attempt_is_counted_and_said(folder: Path) -> None:
    base = ("fit", folder / "calibration.npz", "--out", folder / "r.json")
    assert "attempt " not in _run(*base).output.replace("attempt at this product", "")
    again = _run(*base, "--map", "identity")
    assert "2 of this product: calibrated more strictly" in again.output
    assert Calibration.load(folder / "r.json").attempt == 2
    assert len(AttemptLog(folder / "attempts.jsonl").lines()) == 2


def test_a_guarded_fit(folder: Path) -> None:
    base = ("fit", folder / "calibration.npz", "--out", folder / "r.json", "--error", "0.1")
    assert _run(*base, "--rho", "0.05", "--noise", "0.12").exit_code == 0
    assert Calibration.load(folder / "r.json").guarantee.guard.rho == 0.05
    lonely = _run(*base, "--rho", "0.05")
    assert lonely.exit_code == 2 and "belong together" in lonely.output


def test_too_few_frames_exit_with_1_and_the_number(folder: Path) -> None:
    draw_scores(0, 20).save(folder / "few.npz")
    done = _run("fit", folder / "few.npz", "--out", folder / "r.json")
    assert done.exit_code == 1 and "needs at least 66" in done.output
    assert not Calibration.load(folder / "r.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--error", "1.5"), "error: got 1.5"),
        (("--error", "0.95"), "perhaps 0.05 is meant"),
        (("--confidence", "0.05"), "perhaps 0.95 is meant"),
        (("--beta", "x"), "beta: got 'x'"),
        (("--kind", "marginal", "--confidence", "0.9"), "--confidence: got it with --kind marginal"),
        (("--radius", "0.3"), "give --tuning"),
        (("--choose-beta",), "give --tuning"),
        (("--map", "chosen"), "give --tuning"),
        (("--map", "staircase"), "give --tuning"),
        (("--radius", "0.3,0.2"), "radii that increase"),
        (("--radius", "0.3,x"), "--radius: got '0.3,x'"),
        (("--radius", "0.3", "--weights", "1,2"), "a positive number for each radius"),
        (("--threshold", "0.3"), "expected kind 'selective'"),
        (("--kind", "per-class", "--rho", "0.1", "--noise", "0.1"), "expected 'pac' or 'marginal'"),
        (("--radios", "0.3"), "--radius"),
    ],
)
def test_contradictions_are_explained(folder: Path, options: "tuple[str, ...]", message: str) -> None:
    done = _run("fit", folder / "calibration.npz", "--out", folder / "r.json", *options)
    assert done.exit_code == 2 and message in done.output
    assert not (folder / "r.json").exists()


def test_tuning_frames_among_the_calibration_frames_are_refused(folder: Path) -> None:
    replace(draw_scores(2, 400, 2000).take(np.arange(100)), split="tuning").save(folder / "overlap.npz")
    done = _run(
        "fit", folder / "calibration.npz", "--out", folder / "r.json", "--tuning", folder / "overlap.npz"
    )
    assert done.exit_code == 2 and "100 calibration frames were used in training or tuning" in done.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_digest": "c" * 64}, "got scores with base_digest cccc"),
        ({"sigma": 0.5}, "got scores with sigma 0.5, expected 0.25"),
        ({"class_names": ("x", "y", "z")}, "got scores with class_names"),
        ({"clip": np.arange(300) + 399}, "1 clips are in the calibration split too, first 399"),
    ],
)
def test_tuning_scores_that_do_not_belong_are_refused(
    folder: Path, change: "dict[str, object]", message: str
) -> None:
    replace(draw_scores(1, 300, 2000, split="tuning", start=10**6), **change).save(folder / "other.npz")  # type: ignore[arg-type]
    for choice in ((), ("--map", "identity")):
        done = _run(
            "fit",
            folder / "calibration.npz",
            "--out",
            folder / "r.json",
            "--tuning",
            folder / "other.npz",
            *choice,
        )
        assert done.exit_code == 2 and message in done.output
    assert not AttemptLog(folder / "attempts.jsonl").lines()


def test_scores_drawn_again_are_another_attempt(folder: Path) -> None:
    base = ("fit", folder / "calibration.npz", "--out", folder / "r.json", "--map", "identity")
    assert _run(*base).exit_code == _run(*base).exit_code == 0
    assert Calibration.load(folder / "r.json").attempt == 1
    draw_scores(2, 400, 2001).save(folder / "calibration.npz")
    assert _run(*base).exit_code == 0
    assert Calibration.load(folder / "r.json").attempt == 2


def test_the_wrong_split_is_named(folder: Path) -> None:
    done = _run("fit", folder / "tuning.npz", "--out", folder / "r.json")
    assert done.exit_code == 2 and "got scores of split 'tuning', expected 'calibration'" in done.output
    done = _run("study", folder / "calibration.npz", "--out", folder / "study")
    assert done.exit_code == 2 and "expected 'tuning'" in done.output


def test_study_writes_page_and_data(folder: Path) -> None:
    done = _run(
        "study", folder / "tuning.npz", "--out", folder / "s", "--errors", "0.05,0.1", "--radii", "0,0.3"
    )
    assert done.exit_code == 0, done.output
    value = json.loads((folder / "s" / "study.json").read_text())
    assert [row["error"] for row in value["levels"]] == ["0.05", "0.1"] and value["radii"] == [0.0, 0.3]
    assert (folder / "s" / "study.html").stat().st_size > 10_000
    bad = _run("study", folder / "tuning.npz", "--out", folder / "s", "--radii", "0;1")
    assert bad.exit_code == 2 and "--radii: got '0;1'" in bad.output


def test_guard_compares_noise_levels(folder: Path) -> None:
    table = f"0.12={folder / 'tuning.npz'}"
    done = _run("guard", table, "--rho", "0.02,0.05", "--frames", "2000", "--out", folder / "guard.json")
    assert done.exit_code == 0, done.output
    assert [row["rho"] for row in json.loads((folder / "guard.json").read_text())["rows"]] == [0.02, 0.05]
    stairs = _run("guard", table, "--rho", "0.02", "--frames", "2000", "--radius", "0.15,0.3", "--json")
    assert json.loads(stairs.stdout)["rows"][0]["map"].startswith("staircase"), stairs.output
    bad = _run("guard", "tuning.npz", "--rho", "0.02")
    assert bad.exit_code == 2 and "expected numbers" in bad.output


def test_a_mistyped_command_is_suggested() -> None:
    done = _run("studdy")
    assert done.exit_code == 2 and "Did you mean 'study'" in done.output
