"""Calibration on the server: the PyTorch execution scored on every split, its offset, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.digests import json_digest
from calibration.errors import CheckFailed
from calibration.evaluation import (
    AuditVerdict,
    audit,
    certified_accuracy,
    issued_share,
    label_agreement,
    probit_rmse,
)
from calibration.files import read_json, write_json
from calibration.fit import calibrate as fit_offset
from calibration.fit import check_rank
from calibration.guarantee import Guarantee
from calibration.maps import IDENTITY, RadiusMap, clopper_pearson_map
from calibration.record import Calibration
from calibration.scores import Scores
from trainer.certify import RADII
from trainer.networks import Network
from trainer.scoring import pytorch_execution, score
from trainer.workspace import SCORED_SPLITS, Workspace


@dataclass(frozen=True)
class CalibrateResult:
    """The record and what it is worth on the test split, judged by the independent audit draws.

    accuracy and issued: certified accuracy and share issued at each of `radii`.
    """

    record: Calibration
    radii: tuple[float, ...]
    accuracy: tuple[float, ...]
    issued: tuple[float, ...]
    verdict: AuditVerdict
    agreement: float
    probit_rmse: float

    def to_json(self) -> dict[str, Any]:
        return {
            "calibration": self.record.to_json(),
            "radii": list(self.radii),
            "certified_accuracy": list(self.accuracy),
            "issued": list(self.issued),
            "audit": vars(self.verdict),
            "label_agreement": self.agreement,
            "probit_rmse": self.probit_rmse,
        }


def calibrate(workspace: Workspace, *, allow_code: bool = False) -> CalibrateResult:
    """Calibrate the PyTorch execution of the surrogate and evaluate it on the test split.

    Writes scores/<execution>/{tuning,calibration,verification,test}.npz and calibration.json beside them. The test
    table holds the audit counts.

    **Guarantee**: the record's (`record.guarantee.sentence()`). Every other surrogate, guarantee or map tried on the
    same calibration split raises `record.attempt`, since choosing the best of several weakens the promise.

    Raises CheckFailed where the replay of the calibration split contradicts the record.
    """
    network = workspace.surrogate(allow_code=allow_code)
    tables = score_all(workspace, network)
    guarantee = configured_guarantee(workspace)
    radius_map = configured_map(workspace)
    table = tables["calibration"]
    seen = workspace.splits.digests[np.concatenate([workspace.splits.train, workspace.splits.tuning])]
    attempt = log_attempt(workspace, network, guarantee, radius_map)
    record = fit_offset(table, guarantee, radius_map, training_digests=seen.tolist(), attempt=attempt)
    radius = record.head.radius(table.probit, table.label, table.difficulty)
    check = check_rank(table, radius, record)
    if not check:
        raise CheckFailed(
            f"replay of the calibration split: {check.exceeding} radii exceed their reference, expected at most "
            f"{check.allowed}; this is a defect of the arithmetic, nothing was written"
        )
    record.save(record_path(workspace, network))
    return evaluate(tables["test"], record)


def evaluate(test: Scores, record: Calibration) -> CalibrateResult:
    """What a record is worth on a table of test scores whose counts are audit draws."""
    radius = record.head.radius(test.probit, test.label, test.difficulty)
    return CalibrateResult(
        record=record,
        radii=RADII,
        accuracy=tuple(float(value) for value in certified_accuracy(test.label, radius, test.target, RADII)),
        issued=tuple(float(value) for value in issued_share(radius, RADII)),
        verdict=audit(test, radius),
        agreement=label_agreement(test),
        probit_rmse=probit_rmse(test),
    )


def score_all(workspace: Workspace, network: Network) -> dict[str, Scores]:
    """Score the PyTorch execution on every split but train, write the tables, and return them by split."""
    execution = pytorch_execution(network.digest)
    tables = {}
    for split in SCORED_SPLITS:
        tables[split] = score(network.module, workspace.preprocess, workspace.references(split), execution)
        tables[split].save(workspace.scores_path(execution.name, split))
    return tables


def configured_guarantee(workspace: Workspace) -> Guarantee:
    """The guarantee that [guarantee] asks for."""
    asked = workspace.config.guarantee
    return Guarantee.of(asked.kind, asked.error, asked.confidence, asked.beta)


def configured_map(workspace: Workspace) -> RadiusMap:
    """The radius map that [guarantee] asks for; neither choice looks at calibration counts."""
    asked = workspace.config
    if asked.guarantee.map == "identity":
        return IDENTITY
    beta = float(configured_guarantee(workspace).beta)
    return clopper_pearson_map(asked.smoothing.sigma, asked.targets.calibration, beta)


def record_path(workspace: Workspace, network: Network) -> Path:
    """Where the record of the PyTorch execution lies."""
    return (
        workspace.scores_path(pytorch_execution(network.digest).name, "calibration").parent
        / "calibration.json"
    )


def log_attempt(workspace: Workspace, network: Network, guarantee: Guarantee, radius_map: RadiusMap) -> int:
    """Number of this use of the calibration split; the very same computation again is not another attempt."""
    path = workspace.path / "attempts.json"
    attempts = read_json(path, "log of attempts") if path.exists() else []
    this = {
        "surrogate": network.digest,
        "guarantee": guarantee.to_json(),
        "map": json_digest(radius_map.to_json()),
        "frames": workspace.splits.digest("calibration"),
    }
    if this not in attempts:
        attempts.append(this)
        write_json(path, attempts)
    return 1 + [item for item in attempts if item["frames"] == this["frames"]].index(this)
