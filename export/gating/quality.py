"""What each precision is worth: size, offset and certified accuracy, and the same as ratios to fp32."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

import numpy as np

from rrise.calibration.promise.head import WITHHELD
from rrise.calibration.promise.record import Calibration
from rrise.calibration.tables.evaluation import RADII, issued_share, judge
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.export.gating.compare import Answers

COSTLY = 0.01
"""A precision that costs more certified accuracy than this at some radius is flagged."""


@dataclass(frozen=True)
class Quality:
    """One artefact on the verification frames, abstentions in the denominator.

    Attributes:
        size: of the graph, in bytes.
        offset: the largest over classes that receive certificates, [0, 1] pixel units.
        certified_accuracy, issued: at each of `radii`.
        frames: how many frames have a known class; certified accuracy and net are over these.
        net: certified accuracy less the certificates that exceed the true radius, by the frames' own counts.
        wrong: share of the issued certificates of at least each radius that exceed the true one, labels ignored.
        among_issued: bound on that share by the promise, in words.
    """

    artefact: str
    size: int
    offset: float
    radii: Tuple[float, ...]
    certified_accuracy: Tuple[float, ...]
    issued: Tuple[float, ...]
    frames: int
    net: Tuple[float, ...] = ()
    wrong: Tuple[float, ...] = ()
    among_issued: str = ""

    def to_json(self) -> Dict[str, Any]:
        return asdict(self)

    def costs(self, reference: "Quality") -> float:
        """Largest loss of certified accuracy against `reference` over the radii; negative where it gains everywhere.

        NaN where one of the two has no frame with a known class: no comparison with a limit then passes.
        """
        pairs = zip(self.certified_accuracy, reference.certified_accuracy)
        # Rounded to what a share of frames can differ by, so that a loss of exactly one point is not more than a point.
        return round(max((theirs - mine for mine, theirs in pairs), default=math.nan), 9)


def measure(
    artefact: str,
    size: int,
    record: Calibration,
    answers: Answers,
    frames: Union[References, Scores],
    radii: Sequence[float] = RADII,
) -> Quality:
    """Quality of an artefact from its answers to `frames`, whose counts judge them; a class of -1 is unknown."""
    known = frames.target >= 0
    guard = record.guarantee.guard
    judged = judge(frames, answers.radius, label=answers.label, extra=0.0 if guard is None else guard.rho)
    worth = judged.worth(radii)
    some = worth if known.any() else ()
    return Quality(
        artefact=artefact,
        size=size,
        offset=max(value for value in record.head.offset if value < WITHHELD),
        radii=tuple(float(value) for value in radii),
        certified_accuracy=tuple(row.gross.value for row in some),
        issued=tuple(float(value) for value in issued_share(answers.radius, radii)),
        frames=int(known.sum()),
        net=tuple(row.net.value for row in some),
        wrong=tuple(row.wrong.value for row in worth),
        among_issued=record.among_issued_text(),
    )


def flags(qualities: Sequence[Quality]) -> List[str]:
    """A sentence for each precision that costs more than a point of certified accuracy against the first one."""
    reference, *others = qualities
    return [
        f"{quality.artefact} costs {100 * quality.costs(reference):.1f} points of certified accuracy against {reference.artefact}"
        for quality in others
        if quality.certified_accuracy and quality.costs(reference) > COSTLY
    ]


def quality_table(qualities: Sequence[Quality]) -> "Tuple[List[str], List[List[str]]]":
    """Header and rows for people: every figure with its ratio to the first artefact."""
    reference = qualities[0]
    header = [
        "artefact",
        "size",
        "offset",
        *(f"certified accuracy at {radius:g}" for radius in reference.radii),
        *(f"net at {radius:g}" for radius in reference.radii),
        *(f"wrong among issued at {radius:g}" for radius in reference.radii),
    ]
    rows = []
    for quality in qualities:
        cells = [f"{quality.size:,} B ({ratio(quality.size, reference.size)})"]
        cells.append(f"{quality.offset:.4f} ({ratio(quality.offset, reference.offset)})")
        for mine, theirs in zip(quality.certified_accuracy, reference.certified_accuracy):
            cells.append(f"{mine:.3f} ({ratio(mine, theirs)})")
        cells += ["-"] * (len(quality.radii) - len(quality.certified_accuracy))  # no true class is known
        for values in (quality.net, quality.wrong):
            cells += [f"{value:.3f}" for value in values] or ["-"] * len(quality.radii)
        rows.append([quality.artefact, *cells])
    return header, rows


def by_quantity(header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Tuple[List[str], List[List[str]]]":
    """The same table with a row for each quantity: precisions are few, quantities many, and a phone is narrow."""
    turned = [list(row) for row in zip(header, *rows)]
    return turned[0], turned[1:]


def ratio(value: float, reference: float) -> str:
    """`value` / `reference` as "0.98x"; a dash where the reference is not positive."""
    return f"{value / reference:.3f}x" if reference > 0 else "-"


def latency_ratios(samples: Mapping[str, np.ndarray], reference: str) -> Dict[str, Dict[str, float]]:
    """p50 and p99 in microseconds of each artefact and their ratios to `reference`, from raw samples in seconds."""
    levels = (("p50", 50), ("p99", 99))
    base = {name: float(np.percentile(samples[reference], level)) for name, level in levels}
    table: Dict[str, Dict[str, float]] = {}
    for artefact, seconds in samples.items():
        mine = {name: float(np.percentile(seconds, level)) for name, level in levels}
        table[artefact] = {f"{name}_us": 1e6 * value for name, value in mine.items()}
        table[artefact].update({f"{name}_ratio": value / base[name] for name, value in mine.items()})
    return table
