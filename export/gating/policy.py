"""The acceptance policy of a release: what every precision must reach, and how much worse than before it may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from rrise.export.errors import ExportError
from rrise.export.gating.gate_report import Check, GateReport
from rrise.export.gating.quality import Quality


@dataclass(frozen=True)
class Policy:
    """What a release must reach; checked in with the workspace as [acceptance] of its rrise.toml.

    Attributes:
        radii, certified_accuracy: least certified accuracy at each radius, on the verification frames.
        largest_offset: [0, 1] pixel units, or None.
        largest_label_flips: share of frames whose label differs from PyTorch's, or None.
        max_drop: largest loss of certified accuracy at any reported radius against the baseline bundle, or None.
    """

    radii: Tuple[float, ...] = ()
    certified_accuracy: Tuple[float, ...] = ()
    largest_offset: Optional[float] = None
    largest_label_flips: Optional[float] = None
    max_drop: Optional[float] = None

    def __post_init__(self) -> None:
        if len(self.radii) != len(self.certified_accuracy):
            raise ExportError(
                f"acceptance: got {len(self.radii)} radii and {len(self.certified_accuracy)} values of certified accuracy, "
                "expected one for each radius"
            )


NO_POLICY = Policy()
"""Demands nothing beyond the gate."""


def check_policy(
    policy: Policy, qualities: Sequence[Quality], reports: Sequence[GateReport], baseline: Dict[str, Quality]
) -> Tuple[GateReport, ...]:
    """The gate's reports with the policy's checks added.

    Args:
        qualities: of the new artefacts, in the order of `reports`, at radii that include the policy's.
        baseline: artefact -> its quality in the old bundle on the same frames; empty without a baseline.
    """
    return tuple(
        report.with_checks(
            [
                *_absolute(policy, quality),
                *_flips(policy, report),
                *_drop(policy, quality, baseline),
            ]
        )
        for quality, report in zip(qualities, reports)
    )


def _absolute(policy: Policy, quality: Quality) -> List[Check]:
    checks = []
    reached = dict(zip(quality.radii, quality.certified_accuracy))
    for radius, least in zip(policy.radii, policy.certified_accuracy):
        got = reached.get(radius)
        name = f"acceptance: certified accuracy at {radius:g}"
        text = "no frame with a known class" if got is None else f"{got:.4f}"
        checks.append(Check(name, got is not None and got >= least, text, f"at least {least:g}"))
    if policy.largest_offset is not None:
        passed = quality.offset <= policy.largest_offset
        checks.append(
            Check("acceptance: offset", passed, f"{quality.offset:.6g}", f"at most {policy.largest_offset:g}")
        )
    return checks


def _flips(policy: Policy, report: GateReport) -> List[Check]:
    if policy.largest_label_flips is None:
        return []
    name, limit = "acceptance: label flips against PyTorch", f"at most {policy.largest_label_flips:g}"
    if report.comparison is None:
        return [Check(name, False, "no comparison", limit)]
    share = report.comparison.label_flips / report.comparison.frames
    return [Check(name, share <= policy.largest_label_flips, f"{share:.4f}", limit)]


def _drop(policy: Policy, quality: Quality, baseline: Dict[str, Quality]) -> List[Check]:
    """A precision that the baseline lacks is held against its fp32: nothing is new enough to be worse unnoticed."""
    if policy.max_drop is None or not baseline:
        return []
    name, limit = (
        "acceptance: drop of certified accuracy against the baseline",
        f"at most {policy.max_drop:g}",
    )
    old = baseline.get(quality.artefact, baseline.get("fp32"))
    if old is None:
        return [Check(name, False, f"a baseline with neither {quality.artefact} nor fp32", limit)]
    drop = quality.costs(old)
    got = f"{drop:.4f}" if old.artefact == quality.artefact else f"{drop:.4f} against its {old.artefact}"
    return [Check(name, drop <= policy.max_drop, got, limit)]
