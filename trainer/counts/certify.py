"""Cohen's CERTIFY and PREDICT on the test split: the Monte Carlo certificates that the surrogate is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.tables.certify import CertifyCounts, check_budget, predict
from rrise.calibration.tables.evaluation import RADII, certified_accuracy
from rrise.trainer.counts.targets import TargetsResult, build_targets
from rrise.trainer.streams import comparison_streams, stored_counts
from rrise.trainer.workspace import Workspace


@dataclass(frozen=True)
class BudgetResult:
    """One budget N: certified accuracy at each of `radii`, and the share of frames on which CERTIFY abstained."""

    num_samples: int
    accuracy: tuple[float, ...]
    abstained: float


@dataclass(frozen=True)
class CertifySummary:
    """CERTIFY at every configured budget, and PREDICT. sampling: what had to be drawn for it.

    predict_accuracy, predict_abstained: shares of test frames that PREDICT, on the selection samples alone, answers
    rightly and does not answer.
    """

    radii: tuple[float, ...]
    budgets: tuple[BudgetResult, ...]
    predict_accuracy: float
    predict_abstained: float
    sampling: TargetsResult

    def to_json(self) -> dict[str, Any]:
        rows = [
            {"num_samples": row.num_samples, "accuracy": list(row.accuracy), "abstained": row.abstained}
            for row in self.budgets
        ]
        return {
            "radii": list(self.radii),
            "budgets": rows,
            "predict": {"accuracy": self.predict_accuracy, "abstained": self.predict_abstained},
            "sampling": self.sampling.to_json(),
        }


def certify_test_split(
    workspace: Workspace,
    *,
    device: str = "",
    engine: str = "",
    allow_code: bool = False,
    announce: Callable[[str], object] | None = None,
) -> CertifySummary:
    """Draw what is missing of the CERTIFY streams and of the audit, write certify.npz and references/test.npz, evaluate.

    A bundle needs none of it: it says what Monte Carlo itself would certify, and whether the surrogate's certificates on the
    test frames hold.

    N0 selection samples and each budget's N samples come from streams of their own. PREDICT, the answer without a
    radius, uses the selection samples.

    **Guarantee**: each certificate is wrong with probability at most certify_alpha over its own samples.
    Source: Cohen, Rosenfeld and Kolter 2019, section 3.2.2.
    """
    alpha = float(parse_level(workspace.config.targets.certify_alpha, "certify_alpha"))
    for budget in workspace.config.targets.certify:
        check_budget(workspace.config.targets.selection, budget, alpha)
    sampling = build_targets(
        workspace,
        comparison_streams(workspace),
        device=device,
        engine=engine,
        allow_code=allow_code,
        announce=announce,
    )
    table = certify_counts(workspace)
    table.save(workspace.certify_path)
    rows = []
    for budget in table.budgets:
        result = table.at(budget, alpha)
        accuracy = certified_accuracy(result.label, result.radius, table.target, RADII)
        abstained = float(np.mean(result.radius == 0))
        rows.append(BudgetResult(budget, tuple(float(value) for value in accuracy), abstained))
    answers = predict(table.selection, alpha)
    right = float(np.mean(~answers.abstained & (answers.label == table.target)))
    return CertifySummary(RADII, tuple(rows), right, float(np.mean(answers.abstained)), sampling)


def certify_counts(workspace: Workspace) -> CertifyCounts:
    """The stored counts of all CERTIFY streams."""
    digest, index = workspace.base_digest, workspace.splits.indices("test")
    budgets = tuple(sorted(workspace.config.targets.certify))
    return CertifyCounts(
        digest=workspace.splits.digests[index],
        target=workspace.labels("test"),
        selection=stored_counts(workspace, "selection", digest),
        counts=np.stack([stored_counts(workspace, f"certify-{budget}", digest) for budget in budgets]),
        budgets=budgets,
        sigma=workspace.config.smoothing.sigma,
        class_names=workspace.dataset.class_names,
        base_digest=digest,
    )
