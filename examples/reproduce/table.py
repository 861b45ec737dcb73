"""From methods to rows: what each one's certificates are worth at every error level, beside CERTIFY on the same frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from examples.reproduce.methods import Method
from examples.reproduce.rivals import Rival
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.plan import planning_radii
from rrise.calibration.statistics.bounds import lower_radius, round_down
from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.statistics.shares import Difference
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.cost import break_even
from rrise.calibration.tables.evaluation import (
    AuditVerdict,
    Judged,
    Worth,
    judge,
    label_agreement,
    probit_rmse,
)
from rrise.calibration.tables.scores import Scores
from rrise.trainer.scores.choice import plan_for

ERRORS = ("0.1", "0.05", "0.01")
RIVAL_PROMISE = "per input, proved"
PRIOR_SAMPLES = 100_000
"""N of Accelerated Smoothing's published evaluation."""


@dataclass(frozen=True)
class Row:
    """One method under one promise.

    promise, error: in words, and the level as text; "" where nothing is promised over frames. worth: at each of its radii.
    behind: net points that it lacks against CERTIFY at the largest N on the same frames, at each of them; empty for CERTIFY.
    verdict: of the audit on all certificates. curve: net at each radius of the figure. offline, passes: base passes
    before the first query, and of a query. repaid: queries after which CERTIFY at the largest N would have cost more.
    choice: what the tuning split chose, and the offset.
    """

    method: str
    promise: str
    error: str
    worth: tuple[Worth, ...]
    behind: tuple[Difference, ...]
    verdict: AuditVerdict
    curve: tuple[float, ...]
    agreement: float | None
    probit_rmse: float | None
    offline: int
    passes: int
    repaid: int | None
    choice: str

    @property
    def per_input(self) -> bool:
        """Whether every certificate has a promise of its own, so that gross and net are the same."""
        return self.promise.startswith("per input")


def make_rows(
    methods: Sequence[Method], errors: Sequence[str], radii: Sequence[float], rivals: Sequence[Rival] = ()
) -> list[Row]:
    """CERTIFY at every N, rivals, then every method at every level.

    A method is calibrated as its settings say and, where they name several radii, for each of these alone as well.
    Each row uses the calibration split once and its promise holds for that row; whoever picks the best must pick it on
    other frames.
    """
    first, grid = methods[0], figure_grid(radii)
    rows = _certify_rows(first, radii, grid)
    best = _certified(first, first.certify.budgets[-1])
    for rival in rivals:
        judged = rival.judged(first.test)
        rows.append(_row(rival.name, RIVAL_PROMISE, "", judged, best, radii, grid, 0))
    for method in methods:
        asked = method.config.guarantee
        several = isinstance(asked.radius, tuple) and asked.map in ("auto", "staircase")
        alone = asked.objective.radii if several else ()
        for error in errors:
            rows.append(_calibrated(method, error, radii, best, grid))
            for radius in alone:
                rows.append(_calibrated(method, error, (radius,), best, grid, alone=radius))
        if method.config.surrogate.loss == "js":
            rows.append(_published(method, radii, best, grid))
    return rows


def table_radii(methods: Sequence[Method]) -> tuple[float, ...]:
    """All radii that any method's settings name; where none does, one, two and three sigma."""
    found: set[float] = set()
    for method in methods:
        asked = method.config.guarantee.radius
        found |= set(asked) if isinstance(asked, tuple) else {asked} - {0.0}
    return tuple(sorted(found)) or planning_radii(methods[0].test.sigma)


def with_radii(method: Method, radii: Sequence[float]) -> Method:
    """The method with other wanted radii in its settings; no weights."""
    guarantee = replace(method.config.guarantee, radius=tuple(radii), weights=())
    return replace(method, config=replace(method.config, guarantee=guarantee))


def figure_grid(radii: Sequence[float]) -> tuple[float, ...]:
    """Radii of the figure."""
    return tuple(float(value) for value in np.linspace(0, 1.5 * max(radii), 121))


def _certified(method: Method, budget: int) -> Judged:
    """CERTIFY's certificates. Each has a promise of its own, so it counts until the audit refutes it."""
    alpha = float(parse_level(method.config.targets.certify_alpha, "certify_alpha"))
    found = method.certify.at(budget, alpha)
    return judge(method.test, found.radius, label=found.label, per_input=True)


def _certify_rows(method: Method, radii: Sequence[float], grid: Sequence[float]) -> list[Row]:
    table: CertifyCounts = method.certify
    draws = int(table.selection[0].sum())
    rows = []
    for budget in table.budgets:
        judged = _certified(method, budget)
        promise = f"per input, {method.config.targets.certify_alpha}"
        rows.append(_row(f"CERTIFY, N = {budget:,}", promise, "", judged, None, radii, grid, draws + budget))
    return rows


def _calibrated(
    method: Method,
    error: str,
    radii: Sequence[float],
    best: Judged,
    grid: Sequence[float],
    *,
    alone: float = 0.0,
) -> Row:
    """alone: the only radius that is wanted; 0: those of the settings."""
    asked = replace(method.config.guarantee, error=error)
    if alone:
        asked = replace(asked, radius=alone, weights=(), map="auto")
    config = replace(method.config, guarantee=asked)
    units = len(np.unique(method.calibration.clip))
    plan = plan_for(config, method.tuning, method.guard_noise, units)
    record = plan.calibrate(method.calibration, training_digests=method.tuning.digest.tolist())
    test, guard = method.test, plan.guarantee.guard
    radius = record.head.radius(test.probit, test.label, test.difficulty)
    judged = judge(test, radius, extra=guard.rho if guard else 0.0)
    nothing = record.head.issues_nothing
    offset = "no certificate" if nothing else f"offset {float(np.max(record.head.offset)):.3f}"
    choice = f"map {plan.map.name}, {offset}" + (", difficulty" if plan.difficulty else "")
    name = method.name + (", each radius alone" if alone else "")
    return _row(name, _promise(plan.guarantee), error, judged, best, radii, grid, 0, method, choice)


def _promise(guarantee: Guarantee) -> str:
    guard = f", attacker up to {guarantee.guard.rho:g}" if guarantee.guard else ""
    return f"{guarantee.kind}, eps {float(guarantee.error):g}{guard}"


def _published(method: Method, radii: Sequence[float], best: Judged, grid: Sequence[float]) -> Row:
    judged = judge(method.test, published_prior(method.test, PRIOR_SAMPLES))
    choice = f"Clopper-Pearson on floor({PRIOR_SAMPLES:,} softmax)"
    return _row(f"{method.name}, as published", "none", "", judged, best, radii, grid, 0, method, choice)


def published_prior(test: Scores, num_samples: int) -> np.ndarray:
    """Accelerated Smoothing's radius: the Clopper-Pearson bound on floor(N softmax), taken as if those were samples.

    **Guarantee**: none; nothing was sampled. Source: arXiv 2402.07498.
    """
    from scipy.special import ndtr

    counts = np.floor(num_samples * ndtr(test.probit.astype(np.float64))).astype(np.int64)
    radius = lower_radius(counts, num_samples, test.sigma, 0.001)
    return round_down(np.where(radius > 0, radius, 0.0))


def _row(
    name: str,
    promise: str,
    error: str,
    judged: Judged,
    best: Judged | None,
    radii: Sequence[float],
    grid: Sequence[float],
    draws: int,
    method: Method | None = None,
    choice: str = "",
) -> Row:
    """best: CERTIFY at its largest N. method: None for CERTIFY itself, whose query costs `draws` passes."""
    net = judged.net(radii)
    behind: tuple[Difference, ...] = ()
    if best is not None:
        behind = tuple(Difference.of(theirs, mine) for theirs, mine in zip(best.net(radii), net))
    common = (name, promise, error, judged.worth(radii), behind, judged.verdict())
    curve = tuple(float(value) for value in judged.net(grid).mean(axis=1))
    if method is None:
        return Row(*common, curve, None, None, 0, draws, None, choice)
    offline, passes = method.offline_passes, method.passes
    against = int(method.certify.selection[0].sum()) + method.certify.budgets[-1]
    repaid = break_even(offline, against - passes + 1) if against > passes else None
    agreement, error_size = label_agreement(method.test), probit_rmse(method.test)
    return Row(*common, curve, agreement, error_size, offline, passes, repaid, choice)
