"""Lines of the summaries of `rrise-train calibrate` and `certify`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.evaluation import certified_accuracy
from rrise.trainer.scores.calibrate import CalibrateResult
from rrise.trainer.workspace import Workspace


def guarantee_rows(result: CalibrateResult, frame_rate: float) -> list[tuple[str, str]]:
    """The promise, its limits, the offset and the audit."""
    record, verdict = result.record, result.verdict
    promise = record.guarantee
    rows = [
        ("guarantee", promise.sentence()),
        ("limits", promise.limits()),
        (
            "wrong certificates",
            f"at most {promise.wrong_per_hour(frame_rate):,.0f} an hour expected at {frame_rate:g} frames/s; a ten "
            f"times smaller error needs {promise.ten_times_smaller().spent(1).frames_needed():,} calibration frames",
        ),
        ("offset", record.message()),
        (
            "audit",
            f"{verdict.wrong} wrong, {verdict.right} right, {verdict.undecided} undecided of {verdict.issued} issued on "
            f"{verdict.frames} {result.judged_on} frames; "
            f"{result.note}",
        ),
        ("among issued", record.among_issued_text()),
        ("label agreement", f"{result.agreement:.3f}"),
        ("probit RMSE", f"{result.probit_rmse:.3f}"),
    ]
    if record.attempt_text():
        rows.append(("attempt", record.attempt_text()))
    return rows


def accuracy_rows(workspace: Workspace, result: CalibrateResult) -> list[tuple[str, str]]:
    """Certified accuracy at each radius, beside Monte Carlo where that was drawn."""
    rows = [
        ("certified accuracy at", radii_cells(result.radii)),
        ("one pass, gross", percent_cells(result.accuracy)),
        ("  net of wrong ones", percent_cells([row.net.value for row in result.worth])),
        ("  oracle", percent_cells([row.oracle.value for row in result.worth])),
    ]
    if result.judged_on == "test" and workspace.certify_path.exists():
        table = CertifyCounts.load(workspace.certify_path)
        alpha = float(parse_level(workspace.config.targets.certify_alpha, "certify_alpha"))
        for budget in table.budgets:
            certified = table.at(budget, alpha)
            values = certified_accuracy(certified.label, certified.radius, table.target, result.radii)
            rows.append((f"Monte Carlo N = {budget:,}", percent_cells(values)))
    return [
        *rows,
        ("share issued", percent_cells(result.issued)),
        (
            "wrong among issued",
            percent_cells([row.wrong.value if row.wrong.frames else None for row in result.worth]),
        ),
    ]


def radii_cells(radii: Sequence[float]) -> str:
    """Heads of the columns of `percent_cells`."""
    return "  ".join(f"{f'r={radius:g}':>7}" for radius in radii)


def percent_cells(shares: Sequence[float | None] | np.ndarray) -> str:
    """Shares in per cent, a column of seven characters each; "none" for one of nothing."""
    return "  ".join(f"{'none':>7}" if value is None else f"{100 * value:5.1f} %" for value in shares)
