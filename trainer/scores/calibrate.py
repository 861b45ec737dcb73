"""Calibration on the server: the PyTorch execution scored on every split, its offset, and what it is worth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration.errors import CheckFailed
from rrise.calibration.promise.fit import check_rank
from rrise.calibration.promise.plan import Plan
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.attempts import AttemptLog, largest_attempt
from rrise.calibration.storage.digests import combined_digest, frame_digest
from rrise.calibration.tables.evaluation import (
    RADII,
    AuditVerdict,
    Worth,
    audit_reach_note,
    judge,
    label_agreement,
    probit_rmse,
)
from rrise.calibration.tables.scores import Scores
from rrise.trainer.networks import Network
from rrise.trainer.scores.choice import settle_plan
from rrise.trainer.scores.settled import save_plan
from rrise.trainer.scores.surrogate_scores import pytorch_execution, score_surrogate
from rrise.trainer.streams import REFERENCE_SPLITS
from rrise.trainer.workspace import SCORED_SPLITS, Workspace


@dataclass(frozen=True)
class CalibrateResult:
    """The record and what it is worth on frames that chose nothing.

    judged_on: "test", judged by the independent audit draws that `certify` makes, or "verification", by the draws of its
    references, where there are none.
    worth: gross and net certified accuracy, share issued, wrong among issued and oracle at each of `radii`. note: whether
    the audit is large enough for them.
    """

    record: Calibration
    radii: tuple[float, ...]
    worth: tuple[Worth, ...]
    note: str
    verdict: AuditVerdict
    agreement: float
    probit_rmse: float
    judged_on: str = "test"

    @property
    def accuracy(self) -> tuple[float, ...]:
        """Gross certified accuracy at each radius."""
        return tuple(row.gross.value for row in self.worth)

    @property
    def issued(self) -> tuple[float, ...]:
        """Share of frames with a certificate of at least each radius."""
        return tuple(row.issued.value for row in self.worth)

    def to_json(self) -> dict[str, Any]:
        return {
            "calibration": self.record.to_json(),
            "radii": list(self.radii),
            "certified_accuracy": list(self.accuracy),
            "issued": list(self.issued),
            "worth": [asdict(row) for row in self.worth],
            "audit": vars(self.verdict),
            "judged_on": self.judged_on,
            "audit_note": self.note,
            "label_agreement": self.agreement,
            "probit_rmse": self.probit_rmse,
        }


def calibrate_surrogate(workspace: Workspace, *, allow_code: bool = False) -> CalibrateResult:
    """Calibrate the PyTorch execution of the surrogate and evaluate it.

    On the test split where `certify` has drawn the audit, else on the verification split. Writes
    scores/<execution>/{tuning,calibration,verification}.npz, test.npz with the audit counts where they are there, and
    calibration.json beside them.

    **Guarantee**: the record's (`record.guarantee.sentence()`), whichever attempt is kept: every other surrogate,
    guarantee, map, split or draw of Monte Carlo noise tried in this workspace raises `record.attempt`, and is calibrated
    more strictly for it.

    Raises CheckFailed where the replay of the calibration split contradicts the record.
    """
    network = workspace.surrogate(allow_code=allow_code)
    tables = score_all(workspace, network)
    plan = settle_plan(workspace, tables["tuning"], network.guard_noise)
    table = tables["calibration"]
    record = plan.calibrate(
        table, training_digests=seen_digests(workspace), attempt=log_attempt(workspace, network, plan)
    )
    radius = record.head.radius(table.probit, table.label, table.difficulty)
    check = check_rank(table, radius, record)
    if not check:
        raise CheckFailed(
            f"replay of the calibration split: {check.exceeding} radii exceed their reference, expected at most "
            f"{check.allowed}; this is a defect of the arithmetic, nothing was written"
        )
    save_plan(workspace, network, plan, tables["tuning"])
    record.save(record_path(workspace, network))
    return evaluate(tables.get("test", tables["verification"]), record)


def evaluate(test: Scores, record: Calibration) -> CalibrateResult:
    """What a record is worth on a table of scores of frames that chose nothing, judged by the draws in it."""
    radius = record.head.radius(test.probit, test.label, test.difficulty)
    guard = record.guarantee.guard
    extra = 0.0 if guard is None else guard.rho
    judged = judge(test, radius, extra=extra)
    return CalibrateResult(
        record=record,
        radii=RADII,
        worth=judged.worth(RADII),
        note=audit_reach_note(RADII, int(test.num_samples.min()), test.sigma, extra),
        verdict=judged.verdict(),
        agreement=label_agreement(test),
        probit_rmse=probit_rmse(test),
        judged_on=test.split,
    )


def score_all(workspace: Workspace, network: Network) -> dict[str, Scores]:
    """Score the PyTorch execution on every split that has references, write the tables, and return them by split.

    The test split has them once `certify` has drawn the audit.
    """
    folder, noise = record_path(workspace, network).parent.name, network.guard_noise
    tables = {}
    for split in scored_splits(workspace):
        references = workspace.references(split)
        tables[split] = score_surrogate(
            network.module, workspace.preprocess, references, network.digest, noise
        )
        tables[split].save(workspace.scores_path(folder, split))
    return tables


def scored_splits(workspace: Workspace) -> tuple[str, ...]:
    """The splits with references: the test split only where the comparison was drawn."""
    drawn = workspace.references_path("test").exists()
    return SCORED_SPLITS if drawn else REFERENCE_SPLITS


def seen_digests(workspace: Workspace) -> list[bytes]:
    """Digests of all frames that the surrogate, the map or a quantiser may have seen: train and tuning."""
    seen = np.concatenate([workspace.splits.train, workspace.splits.tuning])
    return list(workspace.splits.digests[seen].tolist())


def record_path(workspace: Workspace, network: Network) -> Path:
    """Where the record of the PyTorch execution lies."""
    name = pytorch_execution(network.digest, network.guard_noise).name
    return workspace.scores_path(name, "calibration").with_name("calibration.json")


def log_attempt(workspace: Workspace, network: Network, plan: Plan) -> int:
    """Number of this attempt of the workspace; the very same computation again is not another attempt.

    Other counts are one: whoever draws the noise again, or raises N, chooses among offsets. So are other splits.
    Raises CalibrationError where the log is gone, or shows fewer attempts than the records of this workspace.
    """
    frames = combined_digest(sorted(workspace.splits.digests[workspace.splits.calibration].tolist()))
    attempt = {
        "surrogate": network.digest,
        "guarantee": plan.guarantee.to_json(),
        "map": plan.map.to_json(),
        "difficulty": plan.difficulty,
        "threshold": plan.threshold,
        "counts": frame_digest(workspace.references("calibration").counts),
        # Only where there are any: an attempt that was logged before keeps its name.
        **({"offsets": list(plan.offsets)} if plan.offsets else {}),
    }
    records = [
        *workspace.path.glob("scores/*/calibration.json"),
        *workspace.path.glob("bundle/calibration/*.json"),
    ]
    log = AttemptLog(workspace.path / "attempts.jsonl")
    return log.append(frames, attempt, seen=largest_attempt(records))
