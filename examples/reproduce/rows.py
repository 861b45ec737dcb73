"""Rows of the table: what a method's certificates are worth on the test frames, and what its promise is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from rrise.calibration.promise.fit import calibrate
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import IDENTITY, RadiusMap
from rrise.calibration.promise.plan import choose_plan
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.shares import Difference, Share
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.cost import break_even
from rrise.calibration.tables.evaluation import (
    AuditVerdict,
    audit,
    certified_accuracy,
    judge,
    label_agreement,
    probit_rmse,
)
from rrise.calibration.tables.scores import Scores

CERTIFY_ALPHA = 0.001
TABLE_BETA = Fraction(1, 10)


@dataclass(frozen=True)
class Row:
    """One method under one promise.

    accuracy: certified accuracy at each of `radii`, gross: certificates that are wrong count. net: without those, by the
    audit's share of hits; proved, not_refuted: between which it lies. oracle: the most that any method can have.
    wrong_at: share of the certificates of at least each radius that do not hold. gap, net_gap: of accuracy and of net to
    CERTIFY at its largest budget; empty for CERTIFY itself. net_gaps: of net to further budgets. wrong: by the audit, of all
    test frames; wrong_issued: of those with a certificate; worst_class: the predicted
    class with the largest share wrong among its certificates. undecided: certificates that the audit could neither
    confirm nor refute. agreement, rmse: of the surrogate; None without one. offline_passes: base evaluations spent before
    the first query, less base training, audit and CERTIFY. break_even: queries after which CERTIFY at `against` draws
    would have cost more. choice: map, beta and whatever else was chosen on the tuning split.
    """

    method: str
    guarantee: str
    radii: tuple[float, ...]
    accuracy: tuple[Share, ...]
    gap: tuple[Difference, ...]
    net: tuple[Share, ...]
    proved: tuple[Share, ...]
    not_refuted: tuple[Share, ...]
    oracle: tuple[Share, ...]
    wrong_at: tuple[Share, ...]
    net_gap: tuple[Difference, ...]
    net_gaps: dict[str, tuple[Difference, ...]]
    average_radius: float
    issued: Share
    wrong: Share | None
    wrong_issued: Share | None
    undecided: int | None
    worst_class: str | None
    worst_share: Share | None
    agreement: float | None
    rmse: float | None
    passes: float
    milliseconds: float | None
    offline_passes: int
    against: int
    break_even: int | None
    choice: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Cost:
    """passes, milliseconds: of one query; offline: base passes; against: draws of the CERTIFY it is compared with.

    certified: where that CERTIFY certifies the true label, bool [radii, test frames]; None where nothing is compared.
    others: the same for further CERTIFY budgets, by name.
    """

    passes: float
    offline: int
    against: int
    milliseconds: float | None = None
    certified: np.ndarray | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The map of a method: `map`, or else chosen with beta and difficulty on the tuning split.

    radius: at which most certificates are wanted; None: the largest mean radius.
    """

    map: RadiusMap | None = None
    radius: float | None = None


PAPER = Choice(IDENTITY)
TUNED = Choice()


@dataclass(frozen=True, eq=False)
class Tables:
    """Scores of one surrogate on the three splits; the test split's counts are the audit's own draws."""

    tuning: Scores
    calibration: Scores
    test: Scores


def evaluate(
    method: str,
    guarantee: str,
    label: np.ndarray,
    radius: np.ndarray,
    test: Scores,
    radii: Sequence[float],
    cost: Cost,
    *,
    choice: str = "",
    surrogate: bool = True,
    audited: bool = True,
    rho: float = 0.0,
    per_input: bool = False,
) -> Row:
    """Judge certificates (label int64 [n], radius float32 [n], 0 = none) on the test frames.

    test: whose counts are draws that neither the method nor its references have seen; audited False where there are
    none: then every certificate counts as one that holds. rho: guarded tier: a certificate promises radius + rho around
    the clean frame, so that is audited. per_input: each certificate has a promise of its own, and counts until the audit
    refutes it.
    """
    judged = replace(test, label=label)
    found = judge(test, radius, label=label, extra=rho, per_input=per_input)
    if not audited:
        found = replace(found, holds=np.ones(len(test), bool), refuted=np.zeros(len(test), bool))
    right, net, worth = found.gross(radii), found.net(radii), found.worth(radii)
    theirs = None if cost.certified is None else cost.certified[:, : len(test)]
    claimed = np.where(radius > 0, radius + np.float32(rho), np.float32(0))
    verdict = found.verdict() if audited else None
    worst, share = _worst_class(judged, claimed) if audited else (None, None)
    saved = cost.against - cost.passes
    return Row(
        method=method,
        guarantee=guarantee,
        radii=tuple(radii),
        accuracy=tuple(row.gross for row in worth),
        gap=() if theirs is None else tuple(map(Difference.of, theirs, right)),
        net=tuple(row.net for row in worth),
        proved=tuple(row.proved for row in worth),
        not_refuted=tuple(row.not_refuted for row in worth),
        oracle=tuple(row.oracle for row in worth),
        wrong_at=tuple(row.wrong for row in worth),
        net_gap=() if theirs is None else tuple(map(Difference.of, theirs, net)),
        net_gaps={
            name: tuple(map(Difference.of, other[:, : len(test)], net)) for name, other in cost.others.items()
        },
        average_radius=float(np.mean(np.where(label == test.target, radius, 0.0))),
        issued=Share.of(int((radius > 0).sum()), len(test)),
        wrong=Share.of(verdict.wrong, verdict.frames) if verdict else None,
        wrong_issued=Share.of(verdict.wrong, verdict.issued) if verdict else None,
        undecided=verdict.undecided if verdict else None,
        worst_class=worst,
        worst_share=share,
        agreement=label_agreement(judged) if surrogate else None,
        rmse=probit_rmse(judged) if surrogate else None,
        passes=cost.passes,
        milliseconds=cost.milliseconds,
        offline_passes=cost.offline,
        against=cost.against,
        break_even=break_even(cost.offline, round(saved + 1)) if cost.offline and saved > 0 else None,
        choice=choice,
    )


def _worst_class(test: Scores, radius: np.ndarray) -> tuple[str | None, Share | None]:
    found: tuple[str | None, Share | None] = (None, None)
    for number, name in enumerate(test.class_names):
        rows = np.flatnonzero((test.label == number) & (radius > 0))
        if not len(rows):
            continue
        verdict: AuditVerdict = audit(test.take(rows), radius[rows])
        share = Share.of(verdict.wrong, verdict.issued)
        if found[1] is None or share.value > found[1].value:
            found = (name, share)
    return found


@cache
def calibrated(
    tables: Tables, guarantee: Guarantee, choice: Choice, betas: tuple[str, ...] = ()
) -> tuple[Calibration, str]:
    """The record of one method under one guarantee, and what was chosen for it; the calibration split is used once."""
    difficulty, radius_map = False, choice.map
    if radius_map is None:
        plan = choose_plan(
            tables.tuning,
            guarantee,
            radius=choice.radius,
            num_calibration=len(tables.calibration),
            betas=tuple(Fraction(beta) for beta in betas),
        )
        guarantee, radius_map, difficulty = plan.guarantee, plan.map, plan.difficulty
    record = calibrate(
        tables.calibration,
        guarantee,
        radius_map,
        training_digests=tables.tuning.digest.tolist(),
        difficulty=difficulty,
    )
    offset = "no certificate" if record.head.issues_nothing else f"offset {record.head.offset[0]:.3f}"
    scaled = " times difficulty" if difficulty else ""
    return record, f"map {radius_map.name}, beta {float(guarantee.beta):g}, {offset}{scaled}"


def promise(guarantee: Guarantee) -> str:
    """The guarantee in a table's cell."""
    if guarantee.kind == "marginal":
        text = f"marginal over inputs, eps {float(guarantee.error):g}"
    else:
        text = f"PAC over inputs, eps {float(guarantee.error):g}, delta {float(guarantee.delta):g}"
    if guarantee.guard is not None:
        text += f", attacker up to {guarantee.guard.rho:g}"
    return text


def calibrated_row(
    method: str,
    tables: Tables,
    guarantee: Guarantee,
    choice: Choice,
    betas: tuple[str, ...],
    radii: Sequence[float],
    cost: Cost,
) -> Row:
    """Calibrate a surrogate's scores and judge what it then issues on the test frames."""
    record, chosen = calibrated(tables, guarantee, choice, betas)
    test = tables.test
    radius = record.head.radius(test.probit, test.label, test.difficulty)
    rho = guarantee.guard.rho if guarantee.guard is not None else 0.0
    return evaluate(method, promise(guarantee), test.label, radius, test, radii, cost, choice=chosen, rho=rho)


def certify_rows(
    table: CertifyCounts,
    test: Scores,
    radii: Sequence[float],
    milliseconds: float | None,
    audited: bool = True,
) -> list[Row]:
    """Cohen's CERTIFY at every budget of the table."""
    rows = []
    draws = int(table.selection.sum(axis=1, dtype=np.int64).max())
    for budget in table.budgets:
        found = table.at(budget, CERTIFY_ALPHA)
        passes = draws + budget
        cost = Cost(passes, 0, passes, None if milliseconds is None else milliseconds * passes)
        rows.append(
            evaluate(
                f"CERTIFY, N = {budget:,}",
                f"per input, alpha {CERTIFY_ALPHA:g}",
                found.label,
                found.radius,
                test,
                radii,
                cost,
                choice=f"N0 = {draws:,}",
                surrogate=False,
                audited=audited,
                per_input=True,
            )
        )
    return rows


def published_prior(test: Scores, num_samples: int) -> np.ndarray:
    """Accelerated Smoothing's radius: the Clopper-Pearson bound on floor(N softmax), taken as if those were samples.

    **Guarantee**: none; nothing was sampled. Source: arXiv 2402.07498.
    """
    from scipy.special import ndtr

    from rrise.calibration.statistics.bounds import lower_radius, round_down

    counts = np.floor(num_samples * ndtr(test.probit.astype(np.float64))).astype(np.int64)
    radius = lower_radius(counts, num_samples, test.sigma, CERTIFY_ALPHA)
    return round_down(np.where(radius > 0, radius, 0.0))


def gap_curve(
    tables: Mapping[str, tuple[Tables, Choice]],
    monte_carlo: float,
    radius: float,
    errors: Sequence[str],
    betas: tuple[str, ...],
) -> dict[str, list[float]]:
    """Monte Carlo's certified accuracy at `radius` less each method's, for each error level of a PAC guarantee.

    Every point is a promise of its own at its own level; they do not hold together at one delta.
    """
    found: dict[str, list[float]] = {}
    for name, (table, choice) in tables.items():
        gaps = []
        for error in errors:
            record, _ = calibrated(table, Guarantee.of("pac", error), choice, betas)
            got = record.head.radius(table.test.probit, table.test.label, table.test.difficulty)
            accuracy = certified_accuracy(table.test.label, got, table.test.target, [radius])
            gaps.append(monte_carlo - float(accuracy[0]))
        found[name] = gaps
    return found
