"""What promises come to on test tracks, and how often they are broken when calibration and test tracks are exchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from rrise.calibration import CalibrationError, Scores
from rrise.calibration.promise.offsets import independent_frames
from rrise.calibration.promise.plan import Plan
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.statistics.shares import Share
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.evaluation import Judged, judge
from rrise.trainer.scores.choice import plan_for
from rrise.trainer.settings.config import Config

Tables = dict[str, Scores]
"""Scores of the splits tuning, calibration and test."""


@dataclass(frozen=True)
class Kept:
    """One promise on the test tracks.

    judged: what the promise counts, in words. wrong: those of them whose certificate exceeds the true radius as the audit
    estimates it; refuted: as its upper bound has it. issued, gross, net: shares of all test frames, with any certificate, and
    with one of at least each radius for the right class, all of them or those that hold. wrong_issued: of the certificates, those
    that do not hold; wrong_class: those for another class; wrong_class_holds: those for another class that hold.
    message: of the record, or why there is none.
    """

    kind: str
    error: str
    judged: str
    wrong: Share
    refuted: Share
    issued: float
    gross: tuple[float, ...]
    net: tuple[float, ...]
    wrong_issued: float
    wrong_class: float
    wrong_class_holds: float
    message: str


def plan_of(config: Config, tables: Tables, kind: str, error: str) -> Plan:
    """What the tuning tracks choose for a promise. Raises CalibrationError where nothing suits."""
    asked = replace(config, guarantee=replace(config.guarantee, kind=kind, error=error))
    return plan_for(asked, tables["tuning"], 0.0, len(np.unique(tables["calibration"].clip)))


def keep(config: Config, tables: Tables, kind: str, error: str, radii: Sequence[float]) -> Kept:
    """Calibrate one promise on the calibration tracks, and judge it on the test tracks.

    It is the only use of the calibration tracks that this promise knows of: whoever picks one of several must pick it on
    other tracks.
    """
    test = tables["test"]
    try:
        record = plan_of(config, tables, kind, error).calibrate(tables["calibration"])
    except CalibrationError as refusal:
        nothing = Share.of(0, 0)
        zeros = (0.0,) * len(radii)
        return Kept(kind, error, "", nothing, nothing, 0.0, zeros, zeros, 0.0, 0.0, 0.0, str(refusal))
    found = judged_by(record, test)
    units = units_of(record, test, found.issued & ~found.holds, found.issued)
    refuted = units_of(record, test, found.issued & found.refuted, found.issued)
    return Kept(
        kind,
        error,
        record.guarantee.rules.judged,
        Share.of(int(units.sum()), len(units)),
        Share.of(int(refuted.sum()), len(refuted)),
        **_certificates(found, radii),
        message=record.message(),
    )


def certified(counts: CertifyCounts, test: Scores, alpha: str, radii: Sequence[float]) -> list[Kept]:
    """CERTIFY on the same frames, at each N that was drawn.

    Each of its certificates has a promise of its own, and counts until the audit refutes it.
    """
    rows = []
    for budget in counts.budgets:
        answer = counts.at(budget, float(parse_level(alpha, "certify_alpha")))
        found = judge(test, answer.radius, label=answer.label, per_input=True)
        refuted = Share.among(found.refuted, found.issued)
        row = Kept(
            f"CERTIFY, N = {budget:,}",
            f"{alpha} per input",
            "certificates",
            refuted,
            refuted,
            **_certificates(found, radii),
            message="",
        )
        rows.append(row)
    return rows


def _certificates(found: Judged, radii: Sequence[float]) -> dict[str, Any]:
    """What stands in a row of all certificates, whatever promised them: issued, gross, net and the shares of the issued."""
    wrong, other = found.issued & ~found.holds, found.issued & (found.label != found.target)
    certificates = max(int(found.issued.sum()), 1)
    return {
        "issued": float(found.issued.mean()),
        "gross": _means(found.gross(radii)),
        "net": _means(found.net(radii)),
        "wrong_issued": int(wrong.sum()) / certificates,
        "wrong_class": int(other.sum()) / certificates,
        "wrong_class_holds": int((other & found.holds).sum()) / certificates,
    }


def judged_by(record: Calibration, table: Scores) -> Judged:
    """The record's certificates on the frames of a table, judged by the draws in it."""
    return judge(table, record.head.radius(table.probit, table.label, table.difficulty))


def units_of(record: Calibration, table: Scores, wrong: np.ndarray, issued: np.ndarray) -> np.ndarray:
    """Whether each thing that the promise counts is wrong, bool [m].

    Things are whole clips, or one drawn frame of each clip, or those of these that have a certificate. wrong, issued:
    bool [n]. Frames of a clip resemble each other; what is counted here is independent.
    """
    drawn = independent_frames(table, 0)
    return record.guarantee.rules.counted(wrong, clip=table.clip, independent=drawn, issued=issued)


def confusions(record: Calibration, table: Scores, most: int = 6) -> list[tuple[str, str, int, int]]:
    """Certificates that hold and are for the wrong class, the most frequent first.

    Each as (true class, class of the certificate, certificates, tracks).
    """
    found = judged_by(record, table)
    rows = np.flatnonzero(found.issued & found.holds & (found.label != found.target) & (found.target >= 0))
    pairs = [(int(table.target[row]), int(table.label[row])) for row in rows]
    clips = {pair: set[int]() for pair in pairs}
    for pair, row in zip(pairs, rows, strict=True):
        clips[pair].add(int(table.clip[row]))
    names = table.class_names
    return [
        (names[pair[0]], names[pair[1]], count, len(clips[pair]))
        for pair, count in Counter(pairs).most_common(most)
    ]


def divisions(plan: Plan, tables: Tables, count: int, *, frames_independent: bool = False) -> np.ndarray:
    """Share of wrong units for each of `count` random exchanges of calibration and test tracks, float64 [count].

    Each time as many tracks calibrate as in the workspace, and the others judge; a frame never does both.

    frames_independent: calibrate as if every frame were a clip of its own. That is no valid calibration; it shows
    what tracks are kept together for.
    """
    first = tables["calibration"]
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(first, field.name), getattr(tables["test"], field.name)])
        for field in fields(first)
        if isinstance(getattr(first, field.name), np.ndarray)
    }
    pool, size = replace(first, **columns), len(np.unique(first.clip))
    shares = []
    for number in range(count):
        clips = np.random.default_rng([5, number]).permutation(np.unique(pool.clip))
        mine = np.isin(pool.clip, clips[:size])
        table, test = pool.take(mine), replace(pool.take(~mine), split="test")
        if frames_independent:
            table = replace(table, clip=np.arange(len(table)))
        record = plan.calibrate(table)
        shares.append(_wrong_share(record, test))
    return np.array(shares)


def _wrong_share(record: Calibration, test: Scores) -> float:
    """Of what the promise counts.

    For frames it is the mean over all frames of each clip, then over clips: the share that is
    expected of one drawn frame of each clip, with less noise than one draw has.
    """
    found = judged_by(record, test)
    wrong, rules = found.issued & ~found.holds, record.guarantee.rules
    if rules.whole_clips:
        return float(units_of(record, test, wrong, found.issued).mean())
    _, place, sizes = np.unique(test.clip, return_inverse=True, return_counts=True)
    weight = 1.0 / sizes[place]
    among = weight * found.issued if rules.among_issued else weight
    return float((weight * wrong).sum() / max(float(among.sum()), 1e-9))


def _means(rows: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in rows.mean(axis=1))
