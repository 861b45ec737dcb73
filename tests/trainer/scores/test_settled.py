"""The plan that calibrate wrote is the one that an export takes, as long as it belongs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration.promise.plan import Plan
from rrise.calibration.tables.scores import Scores
from rrise.export.source import load_source
from rrise.trainer.scores import settled
from rrise.trainer.scores.settled import plan_path, settled_plan
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit


def _no_choice(*_: object) -> None:
    raise AssertionError("chosen again")


def test_export_reads_the_plan_and_neither_scores_nor_fits(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled, "settle_plan", _no_choice)
    monkeypatch.setattr(settled, "tuning_scores", _no_choice)
    made = Workspace.open(workspace)
    plan = Plan.load(plan_path(made, made.surrogate()))
    source = load_source(workspace)
    assert (source.map, source.guarantee, source.threshold) == (plan.map, plan.guarantee, plan.threshold)
    assert source.plan_note == "" and source.attempt == 1


def _other_map(copy: Workspace, path: Path) -> Workspace:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "map": {"name": "identity", "x": [], "y": []}}))
    return copy


def _other_scores(copy: Workspace, path: Path) -> Workspace:
    table = Scores.load(path.with_name("tuning.npz"))
    table.probit[0] += np.float32(0.5)
    table.save(path.with_name("tuning.npz"))
    return copy


def _other_counts(copy: Workspace, path: Path) -> Workspace:
    table = Scores.load(path.with_name("tuning.npz"))
    table.counts[0] = table.counts[0][::-1].copy()
    table.save(path.with_name("tuning.npz"))
    return copy


def _other_level(copy: Workspace, path: Path) -> Workspace:
    return edit(copy, 'error = "0.05"', 'error = "0.1"')


def _gone(copy: Workspace, path: Path) -> Workspace:
    path.unlink()
    return copy


@pytest.mark.parametrize("change", [_other_map, _other_scores, _other_counts, _other_level, _gone])
def test_a_plan_that_does_not_belong_is_chosen_anew_and_said(
    workspace: Path, tmp_path: Path, change: object
) -> None:
    copy = copied(workspace, tmp_path)
    path = plan_path(copy, copy.surrogate())
    before = Plan.load(path)
    changed = change(copy, path)  # type: ignore[operator]
    found = settled_plan(changed, changed.surrogate())
    assert "chosen anew" in found.note and "rrise-train calibrate" in found.note
    assert found.plan.guarantee.error == (2 if change is _other_level else 1) * before.guarantee.error
    assert change is _other_level or found.plan == before
