"""`report/report.html`: the full report of the surrogate's PyTorch execution, with every figure."""

from __future__ import annotations

import time
from typing import Any

from rrise.calibration.reports.report import write_report
from rrise.calibration.reports.summary import ReportTables
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.scores import Scores
from rrise.trainer.errors import TrainerError
from rrise.trainer.reports.stages import look
from rrise.trainer.reports.workspace_page import data_sentence, own_version
from rrise.trainer.workspace import Workspace


def full_report(workspace: Workspace) -> dict[str, Any]:
    """Write report.html and report.json into the workspace's folder `report`; returns the numbers.

    Judged on the test frames where the comparison was drawn, else on the verification frames.

    Raises:
        TrainerError: the surrogate that is there now was not calibrated.
        CalibrationError: a table is damaged, or figures cannot be drawn because matplotlib is missing.
    """
    found = look(workspace)
    if found.record is None or found.folder is None:
        raise TrainerError(
            f"{workspace.path}: no calibration of the surrogate that is there; run `rrise-train run {workspace.path}` first"
        )
    compared = (found.folder / "test.npz").exists() and workspace.certify_path.exists()
    splits = ("calibration", "verification", *(("test",) if compared else ()))
    tables = ReportTables(
        calibration=found.record,
        scores={split: Scores.load(found.folder / f"{split}.npz") for split in splits},
        certify=CertifyCounts.load(workspace.certify_path) if compared else None,
        cost=workspace.cost(),
        frame_rate=workspace.config.guarantee.frame_rate,
    )
    now = time.strftime("%Y-%m-%d %H:%M")
    about = [("workspace", workspace.path.resolve().name), ("data", data_sentence(workspace))]
    if found.copies:
        about.append(
            ("copies", f"{found.copies} noisy copies of the frame beside the surrogate, in the same pass")
        )
    return write_report(tables, workspace.path / "report", about, f"Written {now} by rrise {own_version()}.")
