"""The study on real tracks: corruptions, what a promise counts, why tracks stay together, and one whole run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from examples.signs.__main__ import study
from examples.signs.corruptions import CORRUPTIONS, SEVERITIES, corrupt, distance
from examples.signs.promises import confusions, divisions, units_of
from examples.signs.shift import frames_to_alarm
from rrise.calibration import Execution, Guarantee, Scores, calibrate
from rrise.calibration.promise.maps import step_map
from rrise.calibration.promise.objective import MEAN_RADIUS
from rrise.calibration.promise.plan import Plan
from rrise.trainer.workspace import Workspace

EXECUTION = Execution("a" * 64, "pytorch", "2", "cpu", "x86_64", (), 64)


def smooth_frames(channels: int = 3) -> np.ndarray:
    """Frames with edges and slopes, neither black nor white throughout."""
    across = np.linspace(30, 220, 16)[None, None, :, None]
    square = np.zeros((1, 16, 16, 1))
    square[:, 5:11, 5:11] = 60
    offset = np.arange(4)[:, None, None, None] * 5
    levels = np.broadcast_to(np.clip(across + square - offset, 0, 255), (4, 16, 16, channels))
    return levels.astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_keep_shape_and_grow_with_severity(name: str, channels: int) -> None:
    frames = smooth_frames(channels)
    before = frames.copy()
    moved = []
    for severity in SEVERITIES:
        after = corrupt(frames, name, severity)
        assert after.dtype == np.uint8 and after.shape == frames.shape and (frames == before).all()
        assert (after == corrupt(frames, name, severity)).all()
        moved.append(distance(frames, after))
    assert (moved[0] > 0).all() and (moved[1] > moved[0]).all() and (moved[2] > moved[1]).all()


def test_corruptions_do_what_their_names_say() -> None:
    frames = smooth_frames()
    edges = np.abs(np.diff(frames.astype(float), axis=2)).max()
    changed = {name: corrupt(frames, name, 3).astype(float) for name in CORRUPTIONS}
    assert changed["dark"].mean() == pytest.approx(frames.mean() / 8, abs=1)
    assert changed["bright"].mean() > frames.mean() and changed["bright"].max() == 255
    assert changed["contrast"].std() == pytest.approx(0.2 * frames.std(), rel=0.1)
    assert changed["contrast"].mean() == pytest.approx(frames.mean(), abs=1)
    assert changed["fog"].mean() > frames.mean() and changed["fog"].std() < frames.std()
    assert np.abs(np.diff(changed["blur"], axis=2)).max() < 0.7 * edges


def test_what_cannot_be_corrupted_is_refused() -> None:
    frames = smooth_frames()
    for bad, name, severity in ((frames / 255, "fog", 1), (frames[0], "fog", 1)):
        with pytest.raises(ValueError, match="expected uint8"):
            corrupt(bad, name, severity)
    for name, severity in (("rain", 1), ("fog", 4)):
        with pytest.raises(ValueError, match="expected one of"):
            corrupt(frames, name, severity)


def table(
    split: str, clips: np.ndarray, truth: np.ndarray, seen: np.ndarray, draws: int = 2000, seed: int = 0
) -> Scores:
    """Two classes; truth, seen: probits of class 1 by Monte Carlo and by the surrogate."""
    hits = np.random.default_rng(seed).binomial(draws, norm.cdf(truth))
    return Scores(
        digest=np.array([f"{split}{seed}{row:050}" for row in range(len(clips))], "S64"),
        clip=clips,
        target=np.ones(len(clips), np.int64),
        label=np.ones(len(clips), np.int64),
        probit=seen.astype(np.float32),
        counts=np.stack([draws - hits, hits], axis=1).astype(np.uint32),
        num_samples=np.full(len(clips), draws, np.uint32),
        split=split,
        sigma=0.25,
        class_names=("yield", "stop"),
        base_digest="b" * 64,
        execution=EXECUTION,
    )


def record_of(kind: str, error: str = "0.1") -> object:
    """Any record of that kind that issues something."""
    clips = np.arange(200)
    probit = np.full(200, 2.0)
    scores = table("calibration", clips, probit + 0.5, probit)
    return calibrate(
        scores, Guarantee.of(kind, error), step_map(0.25), offsets=(0.0,) if kind == "selective" else ()
    )


def test_clips_are_counted_once_and_frames_one_a_clip() -> None:
    clips = np.repeat(np.arange(5), 4)
    test = table("test", clips, np.full(20, 2.0), np.full(20, 2.0))
    wrong, issued = np.zeros(20, bool), np.ones(20, bool)
    wrong[[0, 1, 2, 3, 9]] = True  # all frames of clip 0, one frame of clip 2
    issued[16:] = False  # clip 4 has no certificate
    assert units_of(record_of("whole-clip"), test, wrong, issued).tolist() == [  # type: ignore[arg-type]
        True,
        False,
        True,
        False,
        False,
    ]
    single = units_of(record_of("pac"), test, wrong, issued)  # type: ignore[arg-type]
    assert single.shape == (5,) and single[0] and not single[[1, 3, 4]].any()
    assert len(units_of(record_of("selective"), test, wrong, issued)) == 4  # type: ignore[arg-type]


def correlated(split: str, clips: int, seed: int) -> Scores:
    """Ten frames a clip that share the surrogate's error."""
    random = np.random.default_rng(seed)
    truth = random.normal(1.6, 0.8, clips).repeat(10)
    seen = truth + random.normal(0, 0.7, clips).repeat(10) + random.normal(0, 0.05, 10 * clips)
    numbers = (np.arange(clips) + 10_000 * seed).repeat(10)
    return table(split, numbers, truth, seen, seed=seed)


def test_frames_that_are_taken_for_independent_break_the_promise() -> None:
    tables = {"calibration": correlated("calibration", 120, 1), "test": correlated("test", 400, 2)}
    plan = Plan(Guarantee.of("pac", "0.1"), step_map(0.25), False, None, MEAN_RADIUS, (0.25,), ())
    by_clip = divisions(plan, tables, 6)
    as_frames = divisions(plan, tables, 6, frames_independent=True)
    assert by_clip.shape == (6,) and (by_clip > 0.1).mean() <= 0.34
    assert as_frames.mean() > by_clip.mean() and as_frames.max() > by_clip.max()
    assert (divisions(plan, tables, 3) == by_clip[:3]).all()


def test_certificates_that_hold_for_the_wrong_class_are_named() -> None:
    clips = np.repeat(np.arange(4), 2)
    test = table("test", clips, np.full(8, 2.0), np.full(8, 2.0))
    target = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    object.__setattr__(test, "target", target)
    assert confusions(record_of("pac"), test) == [("yield", "stop", 3, 2)]  # type: ignore[arg-type]


def test_the_monitor_speaks_sooner_the_odder_the_frames() -> None:
    usual = (np.arange(1000)[:, None] + 1) / 1000
    alarm, alarmed = frames_to_alarm(usual, 0.005, 5, 300)
    assert alarm is None and alarmed <= 0.2
    slow, _ = frames_to_alarm(usual**2, 0.005, 5, 300)
    fast, always = frames_to_alarm(np.full((10, 1), 0.03), 0.005, 5, 300)
    assert always == 1.0 and fast is not None and (slow is None or slow > fast)


def test_the_whole_study_on_a_workspace(workspace: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in workspace.glob("*") if path.is_file()}
    text = study(
        Workspace.open(workspace),
        tmp_path,
        errors=("0.2",),
        kinds=("pac", "whole-clip", "per-class"),
        corruptions=("contrast",),
        draws=100,
        count=2,
        days=1,
    )
    assert {path: path.read_bytes() for path in workspace.glob("*") if path.is_file()} == before
    found = json.loads((tmp_path / "study.json").read_text())
    pac, whole, per_class, *direct = found["promises"]
    assert [row["kind"] for row in found["promises"][:3]] == ["pac", "whole-clip", "per-class"]
    assert [row["kind"] for row in direct] == ["CERTIFY, N = 100", "CERTIFY, N = 200"]
    assert pac["wrong"] == whole["wrong"] and pac["wrong"]["frames"] == 40  # every digit is a clip of its own
    assert pac["net"][0] <= pac["gross"][0] <= pac["issued"]
    assert (
        per_class["issued"] == 0 and "calibration frames" in per_class["message"] and "per-class, eps" in text
    )
    shifted = found["corruptions"]
    assert [(one["name"], one["severity"]) for one in shifted] == [("none", 0)] + [
        ("contrast", s) for s in SEVERITIES
    ]
    assert shifted[0]["moved"] == 0 and shifted[3]["issued"]["hits"] <= shifted[0]["issued"]["hits"]
    assert shifted[0]["issued"]["hits"] == shifted[0]["wrong"]["frames"] > 0
    assert (tmp_path / "study.svg").read_text().startswith("<svg") and "| contrast 3 |" in text
