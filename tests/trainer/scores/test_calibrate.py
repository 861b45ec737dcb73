from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta as beta_law
from scipy.stats import binom, norm

from rrise.calibration.errors import CalibrationError, RriseError
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.attempts import AttemptLog
from rrise.calibration.tables.scores import Scores
from rrise.trainer.counts.targets import build_targets
from rrise.trainer.scores.calibrate import calibrate_surrogate, log_attempt, record_path
from rrise.trainer.scores.settled import settled_plan
from rrise.trainer.streams import AUDIT, REFERENCE_SPLITS, all_streams
from rrise.trainer.workspace import SCORED_SPLITS, Workspace
from tests.trainer.helpers import copied, edit


def test_offset_against_a_computation_of_its_own(workspace: Path) -> None:
    made = Workspace.open(workspace)
    path = record_path(made, made.surrogate())
    record, table = Calibration.load(path), Scores.load(path.parent / "calibration.npz")
    hits = table.counts[np.arange(100), table.label].astype(float)
    lower = np.where(hits > 0, beta_law.ppf(0.1, np.maximum(hits, 1), 200 - hits + 1), 0)
    reference = np.maximum(0.25 * norm.ppf(lower), 0)
    curve = record.head.map
    raw = 0.25 * table.probit if curve.is_identity else np.interp(0.25 * table.probit, curve.x, curve.y)
    excess = raw - reference
    rank = next(k for k in range(1, 101) if binom.cdf(k - 1, 100, 1 - 0.045) >= 1 - 0.05 / 2)
    assert record.rank == rank
    assert record.head.offset[0] == pytest.approx(np.sort(excess)[rank - 1], abs=1e-5)


def test_result_speaks_of_the_test_split(workspace: Path) -> None:
    made = Workspace.open(workspace)
    result = calibrate_surrogate(made)
    table = Scores.load(record_path(made, made.surrogate()).parent / "test.npz")
    assert (table.num_samples == 400).all(), "the test table holds the audit draws"
    radius = result.record.head.radius(table.probit, table.label)
    right = (table.label == table.target) & (radius > 0)
    assert result.accuracy[0] == pytest.approx(right.mean())
    assert result.verdict.issued == (radius > 0).sum() > 0
    assert result.verdict.wrong + result.verdict.right + result.verdict.undecided == result.verdict.issued


def test_attempts_are_counted(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    assert calibrate_surrogate(copy).record.attempt == 1, "the same computation again is no new attempt"
    other = edit(copy, 'error = "0.05"', 'error = "0.1"')
    assert calibrate_surrogate(other).record.attempt == 2
    back = edit(other, 'error = "0.1"', 'error = "0.05"')
    assert calibrate_surrogate(back).record.attempt == 1


def test_noise_drawn_again_is_another_attempt(workspace: Path, tmp_path: Path) -> None:
    """Else one could draw references under new seeds until the offset is small."""
    copy = copied(workspace, tmp_path)
    assert calibrate_surrogate(copy).record.attempt == 1
    shutil.rmtree(copy.targets_path)
    other = edit(copy, "sigma = 0.25\nseed = 0", "sigma = 0.25\nseed = 1")
    streams = [stream for stream in all_streams(other) if stream.name in (*REFERENCE_SPLITS, AUDIT)]
    build_targets(other, streams)
    assert calibrate_surrogate(other).record.attempt == 2


def test_too_few_frames_issue_nothing_and_say_how_many(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), 'error = "0.05"', 'error = "0.01"')
    result = calibrate_surrogate(copy)
    assert result.record.rank is None and result.verdict.issued == 0
    # (1 - 0.009)^n <= 0.05 / 6, since it is the second attempt in this workspace
    assert "at least 530" in result.record.message()


def test_training_frames_are_refused(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(workspace, tmp_path)
    packs = {split: copy.references(split) for split in SCORED_SPLITS}
    monkeypatch.setattr(copy, "references", packs.__getitem__)
    monkeypatch.setattr(copy, "splits", replace(copy.splits, tuning=copy.splits.calibration[:3]))
    with pytest.raises(RriseError, match="3 calibration frames were used in training or tuning"):
        calibrate_surrogate(copy)


@pytest.mark.parametrize("name", ["identity", "clopper-pearson"])
def test_fixed_map(workspace: Path, tmp_path: Path, name: str) -> None:
    copy = edit(copied(workspace, tmp_path), 'map = "auto"', f'map = "{name}"')
    assert calibrate_surrogate(copy).record.head.map.name == name


def test_other_splits_are_another_attempt_and_cost_confidence(workspace: Path, tmp_path: Path) -> None:
    """Ten draws of the splits, each attempt 1, were ten tries at a small offset."""
    copy = copied(workspace, tmp_path)
    log = AttemptLog(copy.path / "attempts.jsonl")
    known = len(log.different())
    assert log_attempt(copy, copy.surrogate(), settled_plan(copy, copy.surrogate()).plan) == 1
    network, plan, pack = (
        copy.surrogate(),
        settled_plan(copy, copy.surrogate()).plan,
        copy.references("calibration"),
    )
    copy.__dict__["splits"] = replace(copy.splits, calibration=copy.splits.calibration[5:])
    copy.references = lambda split: pack
    assert log_attempt(copy, network, plan) == known + 1


def test_a_deleted_log_is_noticed(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    assert calibrate_surrogate(copy).record.attempt == 1
    (copy.path / "attempts.jsonl").unlink()
    with pytest.raises(CalibrationError, match="shows 0 attempts, but there is a record of attempt 1"):
        calibrate_surrogate(copy)
