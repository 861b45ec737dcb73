"""How good certificates are: gross and net certified accuracy, the wrong among the issued, the audit, the oracle.

*Gross* certified accuracy counts every certificate with the right label, also one whose radius is too large. *Net* leaves
those out, and is what a table should be read by: a promise over frames permits wrong certificates, and they flatter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple, Union

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import certified_radius, clopper_pearson_lower, clopper_pearson_upper
from rrise.calibration.statistics.shares import Share
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores

RADII = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Radii at which certified accuracy is stated, [0, 1] pixel units, where nobody names others."""
VERDICT_LEVEL = 0.001
"""Probability with which an audit's verdict on one certificate may err."""


def certified_right(
    label: np.ndarray, radius: np.ndarray, target: np.ndarray, radii: Sequence[float]
) -> np.ndarray:
    """Which frames have the right label and a radius above 0 and at least r; bool [R, n]."""
    right = (np.asarray(label) == np.asarray(target)) & (np.asarray(radius) > 0)
    return np.array([right & (radius >= r) for r in radii], bool).reshape(len(radii), len(right))


def certified_accuracy(
    label: np.ndarray, radius: np.ndarray, target: np.ndarray, radii: Sequence[float]
) -> np.ndarray:
    """Share of frames, abstentions included, with the right label and a radius above 0 and at least r; float64 [R].

    It is gross: certificates that are wrong count. `judge` tells them apart where there is an audit.
    """
    return np.asarray(certified_right(label, radius, target, radii).mean(axis=1))


def issued_share(radius: np.ndarray, radii: Sequence[float]) -> np.ndarray:
    """Share of frames with a radius above 0 and at least r, whatever their label; float64 [R]."""
    return np.array([np.mean((radius > 0) & (radius >= r)) for r in radii])


@dataclass(frozen=True)
class AuditVerdict:
    """Certificates judged by independent Monte Carlo: wrong, right and undecided add up to issued."""

    frames: int
    issued: int
    wrong: int
    right: int
    undecided: int

    @property
    def wrong_at_most(self) -> float:
        """Share of frames whose certificate may be wrong: wrong and undecided together."""
        return (self.wrong + self.undecided) / max(self.frames, 1)


@dataclass(frozen=True, eq=False)
class Judged:
    """n certificates beside what the draws of an audit say of each.

    Attributes:
        label, target: int64 [n]; a target of -1 is unknown, and such a frame counts for no accuracy.
        radius: float32 [n], as issued; 0 = none.
        holds: bool [n], whether the true radius is at least what the certificate claims: by the audit's share of hits
            where the promise is over frames; not refuted where each certificate has a promise of its own.
        proved, refuted: bool [n], by Clopper-Pearson bounds, each of which errs with probability at most `level`.
        reach: float64 [n], estimate of the true class's own radius, which no method can exceed; -inf where unknown.
        ceiling: largest radius that so many draws can prove.
    """

    label: np.ndarray
    target: np.ndarray
    radius: np.ndarray
    holds: np.ndarray
    proved: np.ndarray
    refuted: np.ndarray
    reach: np.ndarray
    ceiling: float

    @property
    def issued(self) -> np.ndarray:
        return np.asarray(self.radius > 0)

    def gross(self, radii: Sequence[float]) -> np.ndarray:
        """Right label and a radius of at least r; bool [R, n]."""
        return certified_right(self.label, self.radius, self.target, radii)

    def net(self, radii: Sequence[float]) -> np.ndarray:
        """Gross, less the certificates that do not hold; bool [R, n]."""
        return np.asarray(self.gross(radii) & self.holds)

    def verdict(self) -> AuditVerdict:
        issued = self.issued
        wrong, right = int((issued & self.refuted).sum()), int((issued & self.proved).sum())
        return AuditVerdict(len(issued), int(issued.sum()), wrong, right, int(issued.sum()) - wrong - right)

    def worth(self, radii: Sequence[float]) -> "Tuple[Worth, ...]":
        """All numbers at each of `radii`."""
        known = self.target >= 0
        gross, net = self.gross(radii), self.net(radii)
        return tuple(
            Worth(
                radius=float(r),
                gross=Share.among(gross[place], known),
                net=Share.among(net[place], known),
                proved=Share.among(gross[place] & self.proved, known),
                not_refuted=Share.among(gross[place] & ~self.refuted, known),
                issued=Share.of(int((self.issued & (self.radius >= r)).sum()), len(known)),
                wrong=Share.among(~self.holds, self.issued & (self.radius >= r)),
                refuted=Share.among(self.refuted, self.issued & (self.radius >= r)),
                oracle=Share.among((self.reach >= r) & (self.reach > 0), known),
                decidable=self.ceiling > r,
            )
            for place, r in enumerate(radii)
        )


@dataclass(frozen=True)
class Worth:
    """What certificates are worth at one radius r.

    Attributes:
        gross: frames with the right label and a certificate of at least r. net: those of them whose certificate holds.
        proved, not_refuted: between which net lies for sure, each verdict at the audit's level.
        issued: frames with a certificate of at least r, whatever the label.
        wrong, refuted: share of these certificates that do not hold, and that the audit refutes.
        oracle: frames whose true class has a true radius of at least r: the most that any method can have.
        decidable: whether the audit's draws can prove a radius of r at all; where not, net rests on the estimate alone.
    """

    radius: float
    gross: Share
    net: Share
    proved: Share
    not_refuted: Share
    issued: Share
    wrong: Share
    refuted: Share
    oracle: Share
    decidable: bool


def judge(
    audited: "Union[Scores, References]",
    radius: np.ndarray,
    *,
    label: Optional[np.ndarray] = None,
    extra: float = 0.0,
    per_input: bool = False,
    level: float = VERDICT_LEVEL,
) -> Judged:
    """Judge certificates by the draws in `audited.counts`, which must be independent of all they were made from.

    Args:
        audited: the frames' true classes, and the audit's counts.
        radius: float32 [n], as issued; 0 = none.
        label: int64 [n] that they speak of; None: that of the scores.
        extra: what a certificate claims beyond its radius (rho of the guarded tier, around the clean frame).
        per_input: whether every certificate has a promise of its own (CERTIFY, verified tier). Their radii lie so near
            the true ones that the estimate of a smaller audit would call many honest ones wrong; so only what is refuted
            counts against them.
        level: of the Clopper-Pearson verdicts.
    """
    if label is None:
        if not isinstance(audited, Scores):
            raise CalibrationError("judge: got references without labels, expected `label`")
        label = audited.label
    radius, rows = np.asarray(radius, np.float32), np.arange(len(audited.target))
    claimed = np.where(radius > 0, radius + np.float32(extra), np.float32(0))
    hits = audited.counts[rows, label].astype(np.int64)
    draws, sigma = audited.num_samples.astype(np.int64), audited.sigma
    # References in stages: how many draws a frame has may depend on the first of them, so each stage gets its share.
    level = level / max(len(np.unique(draws)), 1)
    refuted = claimed > certified_radius(clopper_pearson_upper(hits, draws, level), sigma)
    proved = claimed <= certified_radius(clopper_pearson_lower(hits, draws, level), sigma)
    holds = ~refuted if per_input else claimed <= certified_radius(hits / draws, sigma)
    return Judged(
        label=np.asarray(label),
        target=audited.target,
        radius=radius,
        holds=np.asarray(holds),
        proved=np.asarray(proved),
        refuted=np.asarray(refuted),
        reach=_reach(audited),
        ceiling=audit_ceiling(int(draws.min()), sigma, level) - extra if len(draws) else 0.0,
    )


def _reach(table: "Union[Scores, References]") -> np.ndarray:
    """Estimated radius of the true class, float64 [n]."""
    known = table.target >= 0
    hits = table.counts[np.arange(len(known)), np.where(known, table.target, 0)]
    found = certified_radius(hits / table.num_samples.astype(np.float64), table.sigma)
    return np.where(known, found, -np.inf)


def audit(scores: Scores, radius: np.ndarray, level: float = VERDICT_LEVEL) -> AuditVerdict:
    """Judge issued radii by the draws in `scores.counts`, which must be independent of the references.

    A certificate is wrong when it exceeds the radius at the upper Clopper-Pearson bound, right when it does not
    exceed the radius at the lower bound, and undecided between; each verdict errs with probability at most `level`.
    """
    return judge(scores, radius, level=level).verdict()


def audit_ceiling(num_samples: int, sigma: float, level: float = VERDICT_LEVEL) -> float:
    """The largest radius that `num_samples` draws can prove, all of them hits: sigma Phi^-1(level^(1/N)), at least 0."""
    return max(float(certified_radius(np.array(level ** (1.0 / num_samples)), sigma)), 0.0)


def draws_to_decide(radius: float, sigma: float, level: float = VERDICT_LEVEL) -> int:
    """The smallest N whose ceiling is above `radius`, in [0, 1] pixel units."""
    miss = 0.5 * math.erfc(radius / sigma / math.sqrt(2.0))
    if miss <= 0.0:
        raise CalibrationError(
            f"radius {radius:g} is {radius / sigma:.0f} sigma: no number of draws proves it"
        )
    smallest = max(math.ceil(math.log(level) / math.log1p(-miss)), 1)
    while audit_ceiling(smallest, sigma, level) <= radius:
        smallest += 1
    return smallest


def audit_reach_note(radii: Sequence[float], num_samples: int, sigma: float, extra: float = 0.0) -> str:
    """Whether an audit is large enough for `radii`: one sentence, which names the draws that it would need."""
    ceiling = audit_ceiling(num_samples, sigma) - extra
    beyond = [r for r in radii if r >= ceiling]
    text = f"{num_samples:,} draws can prove radii up to {max(ceiling, 0.0):.3g}"
    if not beyond:
        return f"{text}, enough for every radius shown"
    needed = draws_to_decide(min(beyond) + extra, sigma)
    listed = ", ".join(f"{r:.3g}" for r in beyond)
    return (
        f"{text}; they cannot decide at {listed} ({needed:,} draws would at {min(beyond):.3g}): net rests on the estimate "
        "there"
    )


def label_agreement(scores: Scores) -> float:
    """Share of frames whose surrogate label is the most frequent Monte Carlo class."""
    return float(np.mean(scores.label == np.argmax(scores.counts, axis=1)))


def probit_rmse(scores: Scores) -> float:
    """Root mean square of the surrogate's probit minus the Monte Carlo probit of the same label.

    Both are clipped to the range that the counts can resolve, Phi^-1 of (n_c + 1/2) / (N + 1), so that saturated
    frames weigh neither nothing nor infinitely.
    """
    share = (scores.label_counts() + 0.5) / (scores.num_samples.astype(np.float64) + 1.0)
    limit = certified_radius((scores.num_samples + 0.5) / (scores.num_samples.astype(np.float64) + 1.0), 1.0)
    difference = np.clip(scores.probit.astype(np.float64), -limit, limit) - certified_radius(share, 1.0)
    return float(np.sqrt(np.mean(difference**2)))
