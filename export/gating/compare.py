"""Compares what an exported graph answers with what the PyTorch surrogate answers on the same real frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Dict, Iterable, Optional

import numpy as np

from rrise.calibration.console import suggestion
from rrise.calibration.promise.head import CertificateHead
from rrise.export.errors import ExportError


@dataclass(frozen=True)
class Answers:
    """label int64 [n], radius float32 [n], probit float32 [n], difficulty float32 [n] or None."""

    label: np.ndarray
    radius: np.ndarray
    probit: np.ndarray
    difficulty: Optional[np.ndarray] = None

    @classmethod
    def of(
        cls,
        label: np.ndarray,
        probit: np.ndarray,
        head: CertificateHead,
        difficulty: Optional[np.ndarray] = None,
    ) -> "Answers":
        """What `head` makes of a label and a probit."""
        return cls(label, head.radius(probit, label, difficulty), probit, difficulty)


@dataclass(frozen=True)
class Tolerance:
    """How far a precision may be from PyTorch before the release stops.

    Attributes:
        label_flips, abstain_flips: shares of frames, rounded down to whole frames.
        probit: largest change of the probit, in either direction.
        radius_increase: largest increase of a certified radius, in units of sigma.

    None of this is needed for soundness, which the precision's own offset takes care of; it tells a sound
    conversion from a damaged one.
    """

    label_flips: float
    abstain_flips: float
    probit: float
    radius_increase: float


TOLERANCES: Dict[str, Tolerance] = {
    # float32 rounding in another order: a weight that is off by 1 % shows as a hundred times as much.
    "fp32": Tolerance(label_flips=0.001, abstain_flips=0.002, probit=1e-4, radius_increase=1e-4),
    "fp16": Tolerance(label_flips=0.01, abstain_flips=0.02, probit=0.05, radius_increase=0.05),
    "int8": Tolerance(label_flips=0.05, abstain_flips=0.1, probit=1.0, radius_increase=1.0),
}


def parse_tolerances(settings: Iterable[str]) -> Dict[str, Tolerance]:
    """The precisions that texts such as "int8.abstain_flips=0.2" name: their defaults with these values replaced.

    Raises:
        ExportError: an unknown precision or field, or no number >= 0.
    """
    changed: Dict[str, Tolerance] = {}
    for setting in settings:
        target, _, text = setting.partition("=")
        precision, _, name = target.partition(".")
        names = [entry.name for entry in fields(Tolerance)]
        if precision not in TOLERANCES or name not in names:
            known = ", ".join(f"{key}.FIELD" for key in TOLERANCES)
            raise ExportError(
                f"tolerance: got {target!r}, expected {known} with FIELD one of {', '.join(names)}{suggestion(name, names)}"
            )
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise ExportError(
                f"tolerance {target}: got {text!r}, expected a number from 0, as in {target}=0.1"
            )
        changed[precision] = replace(changed.get(precision, TOLERANCES[precision]), **{name: value})
    return changed


@dataclass(frozen=True)
class Comparison:
    """Differences of an artefact from the reference on n frames; radii in [0, 1] pixel units, as `graded` gives them.

    Attributes:
        label_flips: frames whose label differs.
        abstain_flips: frames on which one certifies and the other abstains. A certificate below `NEGLIGIBLE` does not
            count: the offset is the score of some frame, whose radius is therefore 0 but for rounding.
        probit: largest absolute difference of the probit; infinity where one of them is NaN.
        radius_increase, radius_increase_999: largest and 99.9th-percentile radius of the artefact minus reference.
        radius_decrease, radius_decrease_999: the same, downwards.
        not_finite: answers that are NaN or infinite.
    """

    frames: int
    label_flips: int
    abstain_flips: int
    probit: float
    radius_increase: float
    radius_increase_999: float
    radius_decrease: float
    radius_decrease_999: float
    not_finite: int

    def needed(self, sigma: float) -> Tolerance:
        """The smallest tolerance that these differences would pass."""
        increase = max(self.radius_increase, 0.0) / sigma
        return Tolerance(
            self.label_flips / self.frames, self.abstain_flips / self.frames, self.probit, increase
        )

    def to_json(self) -> Dict[str, Any]:
        """JSON has no infinity: it is stored as text."""
        return {name: value if np.isfinite(value) else str(value) for name, value in asdict(self).items()}


def graded(answers: Answers, head: CertificateHead) -> Answers:
    """Answers whose radii tell how far apart two executions are.

    The radii of a staircase are few, so there it is how far each frame lies beyond the first step, up to sigma beyond the last
    one: a very negative offset, with which everything is issued, makes the distances large and their rounding as well.
    """
    if not head.map.radii:
        return answers
    reach = head.reach(answers.probit, answers.label, answers.difficulty)
    first, last = np.float32(head.map.thresholds[0]), np.float32(head.map.thresholds[-1])
    top = last - first + np.float32(head.sigma)
    return replace(answers, radius=np.clip(reach - first, np.float32(0), top))


NEGLIGIBLE = 1e-4
"""Radius, in units of sigma, below which certifying and abstaining are the same."""


def compare_outputs(artefact: Answers, reference: Answers, sigma: float) -> Comparison:
    """Compare the answers to the same frames."""
    size = np.maximum(artefact.radius, reference.radius)
    change = artefact.radius.astype(np.float64) - reference.radius
    apart = np.abs(artefact.probit.astype(np.float64) - reference.probit)
    sound = np.isfinite(artefact.probit) & np.isfinite(artefact.radius)
    return Comparison(
        frames=len(change),
        label_flips=int((artefact.label != reference.label).sum()),
        abstain_flips=int(
            (((artefact.radius > 0) != (reference.radius > 0)) & (size > NEGLIGIBLE * sigma)).sum()
        ),
        probit=_largest(apart),
        radius_increase=_largest(change),
        radius_increase_999=_percentile(change),
        radius_decrease=_largest(-change),
        radius_decrease_999=_percentile(-change),
        not_finite=int((~sound).sum()),
    )


def _largest(values: np.ndarray) -> float:
    return float(np.max(values)) if not np.isnan(values).any() else float("inf")


def _percentile(values: np.ndarray) -> float:
    # The next larger sample, no interpolation: a percentile that no frame exceeds by accident of averaging.
    return float(np.percentile(values, 99.9, method="higher")) if not np.isnan(values).any() else float("inf")
